"""The benchmark of generative evaluation: a ratio for each number of labels and each assignment."""

import argparse

from scripts.benchmarks import generative as benchmark


def test_each_target_has_a_ratio():
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    sizes = [
        "--generative-arch=resnet18_vae3",
        "--generative-labels=20",
        "--generative-batch=2",
        "--generative-size=32",
    ]
    options = parser.parse_args(sizes)
    options.repeats = 1
    ratios = benchmark.measure(options)
    assert [(ratio.name, ratio.target, ratio.at_least) for ratio in ratios] == [
        ("generative: K=15, label / encoder", 1.5, False),
        ("generative: K=15, posterior / encoder", 1.5, False),
        ("generative: K=20, label / encoder", 8.0, False),
        ("generative: K=20, posterior / encoder", 8.0, False),
    ]
    assert all(ratio.ratio > 0 for ratio in ratios)
