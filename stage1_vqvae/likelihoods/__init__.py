"""Likelihoods, one file a kind: data units <-> network units, exact probabilities of the 256 levels, or of codes."""

from stage1_vqvae.likelihoods.base import LEVELS, Likelihood
from stage1_vqvae.likelihoods.bernoulli import Bernoulli
from stage1_vqvae.likelihoods.categorical import Categorical
from stage1_vqvae.likelihoods.codes import Codes
from stage1_vqvae.likelihoods.gaussian import Gaussian
from stage1_vqvae.likelihoods.logistic import Logistic, LogisticMixture
from stage1_vqvae.likelihoods.logit_laplace import LogitLaplace
from stage1_vqvae.likelihoods.mu_law import MuLaw, expand

__all__ = [
    "LEVELS",
    "Bernoulli",
    "Categorical",
    "Codes",
    "Gaussian",
    "Likelihood",
    "Logistic",
    "LogisticMixture",
    "LogitLaplace",
    "MuLaw",
    "expand",
]
