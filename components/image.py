"""The image that every component runs in."""

import os

IMAGE = os.environ.get("TEMPER_IMAGE", "temper-worker:latest")
"""Where a pipeline is compiled for a cluster, $TEMPER_IMAGE names the image, pinned by digest."""
