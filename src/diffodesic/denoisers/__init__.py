"""Posterior means E[x0 | z]: schedules, networks, exact denoisers and the probability flow."""

from diffodesic.denoisers import schedules
from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.flow import drop, lift, sample_posterior
from diffodesic.denoisers.likelihood import denoising_likelihood, flow_likelihood
from diffodesic.denoisers.log_partition import LogPartitionDenoiser
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.denoisers.network import NetworkDenoiser, NetworkOptions, from_network
from diffodesic.denoisers.noise_level import NoiseLevel, choose_noise_level
from diffodesic.denoisers.selfcheck import SelfCheck, self_check
from diffodesic.denoisers.sphere import SphereDenoiser

__all__ = [
    "Denoiser",
    "GaussianMixture",
    "LogPartitionDenoiser",
    "NetworkDenoiser",
    "NetworkOptions",
    "NoiseLevel",
    "SelfCheck",
    "SphereDenoiser",
    "choose_noise_level",
    "denoising_likelihood",
    "drop",
    "flow_likelihood",
    "from_network",
    "lift",
    "sample_posterior",
    "schedules",
    "self_check",
]
