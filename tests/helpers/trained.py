"""A small generative model that is as if trained, for the tests of what a label does to it."""

import torch

from models.dgcmm import DGCMM

K, D = 7, 12  # labels, length of a code


def trained_like(size: int, assign: str = "posterior", cosine: bool = False) -> DGCMM:
    """A generative model whose labels, statistics and components all matter."""
    torch.manual_seed(0)
    model = DGCMM("resnet18_vae3", K, D, size, generative=True, gmm_assign=assign, cosine=cosine).eval()
    with torch.no_grad():
        for head in (model.mu_head, model.log_var_head):
            head.weight[:, -K:].normal_(std=0.7)
        model.log_var_head.bias.normal_(std=6.0)  # some beyond the limit
        for norm in model.decoder.norms:
            norm.gain.normal_(std=0.3)
            norm.bias.normal_(std=0.3)
        for module in model.decoder.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.3, 2.0)
        model.prior.means.normal_()
        model.prior.log_vars.normal_()
        model.prior.logits.normal_()
    return model
