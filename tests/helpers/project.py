"""Where the project lies, the names of its metrics, and the smallest model and label file that tests use."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
SMALL_MODEL = ["--arch=resnet32_vae3", "--new-size=16", "--crop-size=16", "--z-dim=32", "--workers=0"]
METRIC_NAMES = (  # columns of metrics.csv
    *("acc", "acsa", "pre_ma", "rec_ma", "spe_ma", "f_ma", "f_mi", "g_ma", "g_mi", "auc"),
    *("many", "median", "low"),
)
