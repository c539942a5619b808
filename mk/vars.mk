# Every knob, with what it means. All can be set on the command line: make train VARIANT=tiny GPUS=4
# A value that a shell or make would act on is refused: mk/values.mk says which characters that concerns.

# full, tiny, nano or base (UniAD-base as published), or one of your own: a row of mk/variants.mk
VARIANT ?= $(DEFAULT_VARIANT)

# STACK, RUNTIME, DATASET and GPUS: `make configure` looks at the machine; a value given here wins.
# GPUS=0: no GPU is used, and CPU_PROCESSES processes train and evaluate on the CPU (of each machine)
CPU_PROCESSES ?= 1
# Variables of other programs that may stand on make's command line too
HANDED_ON := CUDA_VISIBLE_DEVICES CUDA_LAUNCH_BLOCKING NCCL_DEBUG NCCL_SOCKET_IFNAME NCCL_P2P_DISABLE GLOO_SOCKET_IFNAME OMP_NUM_THREADS
# $(call handed-on,NAMES): those of the command line, for a container, without NAMES
handed-on = $(foreach v,$(filter-out $1,$(HANDED_ON)),$(if $(filter command,$(origin $v)),--env $v))

# --- Python -------------------------------------------------------------------------------------------------------------
VENV ?= .venv
# Where torch comes from. Empty: pip's own index, or on a machine without a GPU the CPU wheels of pytorch.org, which
# are a tenth of the size. pip's variables (PIP_INDEX_URL, PIP_FIND_LINKS, ...) are honoured.
TORCH_INDEX_URL ?=

# --- Data ---------------------------------------------------------------------------------------------------------------
DATA_DIR ?= data
# nuScenes as it comes: v1.0-trainval or v1.0-mini. Unless said: what `make configure` found
NUSC_VERSION ?= $(CONFIGURED_NUSC_VERSION)
# Each N-th keyframe of nuScenes tables, for recordings denser than 2 Hz
EVERY ?= 1
# More arguments of tools/create_data.py (DATA_ARGS=--without-canbus)
DATA_ARGS ?=
# Synthetic world (DATASET=synthetic): scenes of each split, frames in a scene, seed
SYNTH_TRAIN_SCENES ?= 20
SYNTH_VAL_SCENES ?= 4
SYNTH_FRAMES ?= 40
SYNTH_SEED ?= 0
# Whose boxes and anchors `make data` and `make anchors` write: uniad-v1 or uniad-v2 (docs/weights.md). Empty: GENERATION's, else v1's
CONVENTION ?=
# Processes that prepare data. Asked of the machine once, and only where they are named
CORES = $(eval CORES := $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2))$(CORES)
JOBS ?= $(CORES)

# --- Training -----------------------------------------------------------------------------------------------------------
# Epochs of a stage. Empty: the config's (6 and 20). EPOCHS.1 and EPOCHS.2: of one stage
EPOCHS ?=
EPOCHS.1 ?= $(EPOCHS)
EPOCHS.2 ?= $(EPOCHS)
# Stop after so many iterations instead; the learning rate follows. MAX_ITERS.1 and MAX_ITERS.2: of one stage
MAX_ITERS ?=
MAX_ITERS.1 ?= $(MAX_ITERS)
MAX_ITERS.2 ?= $(MAX_ITERS)
# Stage 0, BEVFormer (make train-stage0): its length where it is another than EPOCHS and MAX_ITERS say
EPOCHS.0 ?= $(EPOCHS)
MAX_ITERS.0 ?= $(MAX_ITERS)
# 1: stage 1 starts from this repository's own stage 0, which is trained first where it is not there yet
STAGE0 ?=
# Weights of the image backbone that stage 0 starts from: a file of torchvision's (resnet50-0676ba61.pth, resnet101-63fe2227.pth), or
# FCOS3D's. Empty: the variant's own
BACKBONE ?=
# Frames in a training clip (native). Empty: the config's. 3 instead of 5 takes about 60 % of the memory.
QUEUE_LENGTH ?=
SEED ?= 0
# fp32, tf32, bf16 or fp16. auto: that of the run that goes on; else bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU
TRAIN_PRECISION ?= auto
# What suits the GPU is picked: CUDA graph, compiled layers, memory layout, recomputation where memory is short. 0: computed as
# upstream does, in fp32 unless TRAIN_PRECISION says otherwise
FAST ?= 1
# 1: load nothing and freeze nothing, 0: start from published weights. Empty: 1 for synthetic data, 0 for nuScenes.
FROM_SCRATCH ?=
# A variant learns the synthetic world from nothing by its recipe (projects/configs/recipes), which makes worlds of its own: 0 trains
# the config's schedule on data/synthetic instead, as do EPOCHS, MAX_ITERS and QUEUE_LENGTH
RECIPE ?=
# Config values, as upstream's --cfg-options: CFG_OPTIONS='optimizer.lr=1e-4 data.samples_per_gpu=2'
CFG_OPTIONS ?=
# More options for tools/train.py
TRAIN_ARGS ?=
# GPUS is the number on each machine. Several machines: the same line on each, with its own NODE_RANK (0 first).
NNODES ?= 1
NODE_RANK ?= $(if $(call given,RANK),$(RANK),0)
MASTER_ADDR ?=
MASTER_PORT ?= 28599
# Seconds that machines wait for each other before a stage
NODE_TIMEOUT ?= 1800
# train as a job of a cluster: slurm, k8s (Kubeflow Trainer) or sky (SkyPilot), on NNODES machines of GPUS each (docs/training.md)
ON ?=
# Its name; empty: uniad-VARIANT
JOB_NAME ?=
# What every machine shares, with the data and the checkpoints. k8s: a claim that holds this tree. sky: a bucket or a volume
JOB_STORAGE ?=
# The image that `make image` made, in a registry that the machines reach (k8s; sky, where you want one)
JOB_IMAGE ?=
# SkyPilot's name of the GPU: H100
JOB_GPU ?=
# The longest that it may take; training saves before it is over
JOB_MINUTES ?=
# How often it begins again after a machine was lost, from the last complete checkpoint
JOB_RESTARTS ?= 3
# More options for sbatch, kubectl apply or sky jobs launch: JOB_FLAGS='--partition=gpu'
JOB_FLAGS ?= $(SLURM_FLAGS)
SLURM_FLAGS ?=
# 1: print the job and submit nothing
JOB_PLAN ?=

# For plot: work directories to draw instead of VARIANT's, and more options of tools/plot_training.py (--overlay compares runs)
RUNS ?=
PLOT_ARGS ?=

# --- Published files ----------------------------------------------------------------------------------------------------
# A folder of files that you have already, instead of downloading
WEIGHTS_DIR ?=
# 1: `make weights` fetches the published infos too, instead of making them
PUBLISHED ?=

# --- Containers ---------------------------------------------------------------------------------------------------------
# More options for every `docker run` (or podman)
DOCKER_FLAGS ?=
# Base images. Empty: a public CUDA 11.6 image, a public TensorRT image, NVIDIA's L4T; a plain Debian works without a GPU.
TORCH112_BASE ?=
DEPLOY_BASE ?=
JETSON_BASE ?=
# The digest that a base image must have (sha256:...), whatever its tag names by now
TORCH112_DIGEST ?=
DEPLOY_DIGEST ?=
JETSON_DIGEST ?=
# Index that torch comes from, and nothing else does; empty: the Dockerfile's, none: the same as the other packages
TORCH112_INDEX_URL ?=
DEPLOY_INDEX_URL ?=
JETSON_INDEX_URL ?=
# Where an image's packages come from; pip's own variables on this machine are handed on
PIP_INDEX_URL ?=
PIP_TRUSTED_HOST ?=
APT_MIRROR ?=
# Further certificates (PEM), and folders of wheels that are at hand
PIP_CERT ?=
CA_CERTS ?= $(PIP_CERT)
PIP_FIND_LINKS ?=
WHEELS ?= $(wildcard $(PIP_FIND_LINKS))
http_proxy ?=
https_proxy ?=
no_proxy ?=
# The images that `make images` builds as one graph: torch1.12, deploy, jetson. Unless said: all
IMAGES_OF ?= $(IMAGES)
# More build arguments (BUILD_ARGS='MAX_JOBS=2'), more options for `docker build`, or for `docker buildx bake` in `make images`
BUILD_ARGS ?=
BUILD_FLAGS ?=

# --- The upstream stack (STACK=torch1.12) -------------------------------------------------------------------------------
UNIAD_GIT_URL ?= https://github.com/OpenDriveLab/UniAD.git
# Holds the checkout (UniAD_train/UniAD), the home of its containers and the stamps of its steps
UNIAD_TRAIN ?= UniAD_train
# Loader processes without a GPU
CPU_WORKERS ?= 1
# For compare-stacks: the interpreter of an environment with docker/torch1.12/requirements.txt, and more options of its script.
# DOCUMENTED_PYTHON is its earlier name.
DOCUMENTED_PYTHON ?=
UPSTREAM_PYTHON ?= $(DOCUMENTED_PYTHON)
COMPARE_ARGS ?=

# --- Evaluation, export, engine -----------------------------------------------------------------------------------------
# A checkpoint of yours to evaluate, export, draw or run, and the config that it was trained with, where it is none of VARIANT's.
# Without them: the checkpoint under its name in ckpts/, whoever put it there. Only from the command line.
CKPT :=
CONFIG :=
# Whose conventions the weights have: uniad-v1, uniad-v2 or bench2drive (docs/weights.md). Empty: what CKPT shows, else v1's
GENERATION ?=
# Which stage eval, export, verify, engine and visualize take. Unless said: 2; eval and visualize take 1 while only it was trained
STAGE ?= $(stage-there)
# More options for tools/test.py and tools/visualize.py
EVAL_ARGS ?=
VISUALIZE_ARGS ?=
# 1: export, verify, engine and the like take seeded random weights (SEED) instead of a checkpoint, under names of their own
RANDOM_WEIGHTS ?=
# How sampling leaves PyTorch: gridsample, gather or plugin. Empty: what suits TRT.
EXPORT_SAMPLING ?=
# TensorRT version that will read the graph, such as 8.5, 10.3 or rtx. Empty: a graph for most.
TRT ?=
# Frames in the recorded sequence that verify replays. Empty: 10; 20 of the end-to-end step, 3 where its BEV is large (full)
EXPORT_FRAMES ?= $(EXPORT_FRAMES.$(VARIANT))
# 1: export and engine put another checkpoint's weights into the ONNX and the TensorRT engine that are there, and verify them
REFIT ?=
# 1: builds a TensorRT engine that REFIT=1 can give other weights (tensorrt, tensorrt_rtx); it may be slower (docs/export.md)
ENGINE_REFITTABLE ?=
VERIFY_BACKENDS ?= torch,onnxruntime
# Where an output is wrong, find the first tensor that departs: 1 on every backend, 0 never. Empty: where a replay takes seconds
LOCATE ?=
# 0: engine and jetson-engine build without trying the canaries first, docs/canary.md
CANARY ?= 1
# More options for tools/canary.py, such as '--only grid_sample,top_k'
CANARY_ARGS ?=
# tensorrt_rtx builds without a GPU; tensorrt and trtexec need the GPU they build for
ENGINE_BACKEND ?= tensorrt_rtx
# fp32; fp16 and int8, which convert the graph first and measure what must stay in fp32
PRECISION ?= fp32
# int8: scenes of the training split to calibrate on (empty: 4), and the first frames of each (empty: 20)
CALIB_SCENES ?=
CALIB_FRAMES ?=
# Where int8 cuts activations off: percentile, entropy or minmax. Empty: the one that does least harm (auto)
CALIB_METHOD ?=
# int8: layer groups to keep in fp32 whatever they measure, as the card names them; more options for tools/quantize.py
KEEP_FP32 ?=
QUANTIZE_ARGS ?=
# tensorrt_rtx: GPUs to compile for, such as 8.6,8.9
COMPUTE_CAPABILITIES ?=
# Memory that a build may take. Empty: 4
WORKSPACE_GIB ?=
# File that later builds read and add to
TIMING_CACHE ?=

# --- Inference and pictures ---------------------------------------------------------------------------------------------
# Scene of the validation split by number, name or token; or a recorded folder instead; or a bag of ROS 2 (.mcap, .db3 or a
# rosbag2 folder), with a file that says which topic is what where names do not (docs/car-logs.md). FRAMES: the first so many
SCENE ?=
FRAMES_DIR ?=
BAG ?=
BAG_TOPICS ?=
FRAMES ?=
# onnxruntime (unless said), torch, compiled (PyTorch in fp16 as one CUDA graph: a GPU's fastest) or engine;
# `make eval` takes it, too: unless said the checkpoint is scored, in torch
BACKEND ?=
# Two folders of results and their difference, for visualize
COMPARE ?=
# Minutes of `make soak`, and more options of tools/soak.py
SOAK_MINUTES ?= 60
SOAK_ARGS ?=
# Frames of `make endurance`: an hour of 2 Hz
ENDURANCE_FRAMES ?= 7200
# More options for tools/infer.py, tools/make_bag.py, tools/make_video.py and tools/make_recording.py
INFER_ARGS ?=
BAG_ARGS ?=
VIDEO_ARGS ?=
VIEW_ARGS ?=
# Frames of `make metadata`. Empty: 69, as in upstream, or all where there are fewer
NUM_FRAME ?=

# --- Before it drives a car ---------------------------------------------------------------------------------------------
# For robust: all (every fault at severities 1, 2 and 3), or faults by name (ROBUST='Fog CameraLost'). Empty: every fault at severity 3
ROBUST ?=
# The severities of faults named so: SEVERITIES='1 2 3'
SEVERITIES ?=
# Routes of the closed loop (make drive) that robust drives under each fault. Empty: 1; 0 for nuScenes, which has no closed loop
ROBUST_ROUTES ?=
# For drive: how many routes (four in each seed's world, from SEED on; unless said 100), and whether the traffic sees the car (reactive)
# or goes as it was recorded (replay)
ROUTES ?= 20
TRAFFIC ?= reactive
# More options for tools/robust.py, tools/audit.py and tools/drive.py
ROBUST_ARGS ?=
AUDIT_ARGS ?=
DRIVE_ARGS ?=
# Without a word about model or data robust, audit and drive take the model that the repository brings, in the demo's world.
ASSESS_SAID := $(strip $(foreach v,VARIANT DATASET CKPT CONFIG,$(call given,$v)))

# --- Jetson ---------------------------------------------------------------------------------------------------------------
# user@host or user@host:port (ssh, by key), local, or bundle. Empty: local where trtexec is, else bundle
JETSON ?=
# 5.1, 6.0, 6.1, 6.2, 7.0, 7.1 or 7.2, or a patch release (6.2.1): sets TRT
JETPACK ?=
# Folder of its own on the device, from the login's home or absolute
JETSON_DIR ?= uniad-engines
# Further words for ssh: JETSON_SSH_FLAGS='-i ~/.ssh/jetson'
JETSON_SSH_FLAGS ?=
# trtexec where it is not on the PATH
TRTEXEC ?=
JETSON_WORKSPACE_MIB ?= 4096
# Disk that must stay free on the device
JETSON_SPARE_MIB ?= 512
# Steps and seconds to time, at least
JETSON_ITERATIONS ?= 200
JETSON_SECONDS ?= 10

# --- Tests --------------------------------------------------------------------------------------------------------------
TEST_JOBS ?= $(JOBS)
# What pytest runs: TESTS=tests/unit or TESTS='tests -k export'
TESTS ?= tests
TEST_ARGS ?=

# What `make mutants` changes, below projects/uniad, and more options of mk/lib/mutate.py (--limit 20: only so many changes of each)
MUTANTS ?= verify/tolerances.py verify/compare.py verify/objects.py verify/assignment.py precision/search.py postprocess/tracks.py \
  training/identity.py config/file.py export/audit.py
MUTANT_ARGS ?=

# --- Demo: its own small world and folders, by the same rules -----------------------------------------------------------
DEMO_VARIANT ?= $(if $(call given,VARIANT),$(VARIANT),$(DEFAULT_DEMO))
DEMO_TRAIN_SCENES ?= 8
DEMO_VAL_SCENES ?= 2
DEMO_FRAMES ?= 20
DEMO_SEED ?= 1
# Iterations of the demo's training, of stage 1 and stage 2 (one number: of each). Unless said: the variant's row
DEMO_ITERS ?= $(DEMO_ITERS.$(DEMO_VARIANT))
# Steps of the demo at once, which share the cores: 1 makes one after the other
DEMO_JOBS ?= 2
# Half the cost of the backbone, for numbers that are not quite upstream's
DEMO_TRAIN_ARGS ?= --shared-history
