"""The stages. Settings that libraries read when they are imported stand here, before any of them is."""

import logging
import os
import shutil
import warnings

os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach train.entry, not Hydra's own printer
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # nothing reports home
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # threads that spin longer starve others, threads that sleep wake late
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")  # it keeps a kernel of megabytes for each shape it met
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
warnings.filterwarnings("ignore", category=FutureWarning)
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says at every start which kernels it could download
