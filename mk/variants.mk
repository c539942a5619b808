# The variant table. A variant is a row here and a config pair, projects/configs/stage1_track_map/STEM_track_map.py and
# stage2_e2e/STEM_e2e.py (with STEM_e2e_trt_p.py for its export, and _base_/variants/STEM.py for what they share, where there is
# any); nothing else in the system knows its name. Rows of your own stand in variants.local.mk beside the Makefile, which git
# ignores, or on the command line (STEM.mine=mine). docs/configs.md

# Stem of config and checkpoint names: what makes a row. The other columns may be left out.
STEM.full := full
STEM.tiny := tiny_imgx0.25
STEM.nano := nano
# UniAD-base under the names that upstream published its checkpoints with. full is the same model, with the thinner map lines of
# NVIDIA's configs.
STEM.base := uniad_base
# Thinklab-SJTU/Bench2DriveZoo's base and tiny, and nano with their classes and data (docs/bench2drive.md)
STEM.b2d-base := b2d-base
STEM.b2d-tiny := b2d-tiny
STEM.b2d-nano := b2d-nano

# The format of the data that it learns from: nuscenes or bench2drive
FORMAT.b2d-base := bench2drive
FORMAT.b2d-tiny := bench2drive
FORMAT.b2d-nano := bench2drive

# Taken where nobody says VARIANT, and by the demo where nobody says DEMO_VARIANT
DEFAULT_VARIANT := tiny
DEFAULT_DEMO := nano

# Published weights as they come, and what stage 1 starts from unless FROM_SCRATCH=1: the same file, or one that
# postprocess_bevformer_tiny_epoch_24_pth.py makes of it
RAW.full := ckpts/bevformer_r101_dcn_24ep.pth
RAW.base := ckpts/bevformer_r101_dcn_24ep.pth
RAW.tiny := ckpts/bevformer_tiny_epoch_24.pth
INIT.full := ckpts/bevformer_r101_dcn_24ep.pth
INIT.base := ckpts/bevformer_r101_dcn_24ep.pth
INIT.tiny := ckpts/bevformer_tiny_epoch_24_updated2.pth
RAW.b2d-base := ckpts/bevformer_base_b2d.pth
RAW.b2d-tiny := ckpts/bevformer_tiny_b2d.pth
INIT.b2d-base := ckpts/bevformer_base_b2d.pth
INIT.b2d-tiny := ckpts/bevformer_tiny_b2d.pth

# Image backbones that stage 0 starts from unless FROM_SCRATCH=1
BACKBONE.full := ckpts/r101_dcn_fcos3d_pretrain.pth
BACKBONE.base := ckpts/r101_dcn_fcos3d_pretrain.pth
BACKBONE.tiny := ckpts/resnet50-0676ba61.pth

# /dev/shm that a container of it gets
SHM.full := 32g
SHM.base := 32g
SHM.nano := 2g
SHM.b2d-base := 32g
SHM.b2d-nano := 2g

# GiB of memory that upstream's training needs on each GPU, where that is known
GPU_GIB.full := 32
GPU_GIB.base := 32

# A model in this repository that has learnt the synthetic world: what is read and continued there, unless FROM_SCRATCH=1.
# Its motion anchors lie beside it.
SHIPPED.nano := weights/nano/nano_e2e.pth

# Stacks that can run it. UniAD's code has 900 queries of width 256 written into it; nano has fewer of both.
STACKS.nano := native
STACKS.b2d-base := native
STACKS.b2d-tiny := native
STACKS.b2d-nano := native

# Epochs of its schedule, of stage 1 and stage 2
SCHEDULED.b2d-base := 1 2
SCHEDULED.b2d-tiny := 1 1

# Iterations of the demo's training, of stage 1 and stage 2 (one number: of each): minutes on two CPU cores
DEMO_ITERS.nano := 65 60
DEMO_ITERS.tiny := 4 2
DEMO_ITERS.full := 2 1
DEMO_ITERS.base := 2 1

# Processes of the demo's training on a CPU: as many as its config has clips in a batch
DEMO_PROCESSES.nano := 2

# Clips on which the demo tells what its training gave
DEMO_CLIPS.nano := 20

# Seconds of an iteration of one clip, of stage 1 and stage 2, in fp32: from which preflight tells how long a training takes.
# native: one H200, `benchmarks/train_step.py --variant V --samples 1 --frames 5 --frozen` (stage 2: --frames 3; docs/results.md). torch1.12:
# full from upstream's docs/TRAIN_EVAL.md (2 and 4 days on 8 A100), tiny timed on one H200. On two CPU cores: half the CPU seconds of a
# clip, "The demo" in docs/results.md
PACE.full := native=2.0,1.34 torch1.12=8.2,4.9
PACE.base := native=2.0,1.34 torch1.12=8.2,4.9
PACE.tiny := native=0.55,0.63 torch1.12=1.64,1.83 torch1.12.cpu=63,29
PACE.nano := native.cpu=1.0,0.5

include $(wildcard variants.local.mk)

# What a row gets that leaves a column out
DEFAULT.FORMAT := nuscenes
DEFAULT.SCHEDULED := 6 20
DEFAULT.RAW :=
DEFAULT.INIT :=
DEFAULT.BACKBONE :=
DEFAULT.SHM := 8g
DEFAULT.GPU_GIB :=
DEFAULT.SHIPPED :=
DEFAULT.PACE :=
DEFAULT.STACKS := native torch1.12
DEFAULT.DEMO_ITERS := 4 2
DEFAULT.DEMO_CLIPS := 3
DEFAULT.DEMO_PROCESSES :=
# Frames in the recorded sequence that verify replays. Empty: by stage and size of the BEV
DEFAULT.EXPORT_FRAMES :=

COLUMNS := $(patsubst DEFAULT.%,%,$(filter DEFAULT.%,$(.VARIABLES)))
ROWS := $(patsubst STEM.%,%,$(filter STEM.%,$(.VARIABLES)))
VARIANTS := full tiny nano base b2d-base b2d-tiny b2d-nano
VARIANTS += $(sort $(filter-out $(VARIANTS),$(ROWS)))
$(foreach c,$(COLUMNS),$(foreach v,$(filter-out $(VARIANTS),$(patsubst $c.%,%,$(filter $c.%,$(.VARIABLES)))),$(error $c.$v is a column of no variant: its row starts with STEM.$v := (stem of its config names))))
$(foreach v,$(VARIANTS),$(foreach c,$(COLUMNS),$(if $(filter undefined,$(origin $c.$v)),$(eval $c.$v := $(DEFAULT.$c)))))
$(if $(filter-out 1,$(words $(VARIANT)))$(filter-out $(VARIANTS),$(VARIANT)),$(error VARIANT=$(VARIANT) is unknown: choose $(subst $(space),$(comma) ,$(VARIANTS)), or give it a row in variants.local.mk (docs/configs.md)))

# Stages, and epochs of upstream's schedule
STAGES := 1 2
SCHEDULE.1 := $(word 1,$(SCHEDULED.$(VARIANT)))
SCHEDULE.2 := $(word 2,$(SCHEDULED.$(VARIANT)))

CONFIG_DIR.0 := bevformer
KIND.0 := bevformer
SCHEDULE.0 := 24
CONFIG_DIR.1 := stage1_track_map
KIND.1 := track_map
CONFIG_DIR.2 := stage2_e2e
KIND.2 := e2e

# A row without its files would fail far from here.
$(foreach s,$(STAGES),$(foreach f,projects/configs/$(CONFIG_DIR.$s)/$(STEM.$(VARIANT))_$(KIND.$s).py,$(if $(wildcard $f),,$(error VARIANT=$(VARIANT) has no $f, a config file that its row promises (docs/configs.md)))))

# Models of publishers by the names that variants have here
VARIANT_OF.uniad-v1.base := base
VARIANT_OF.uniad-v2.base := base
VARIANT_OF.uniad-v1.tiny := tiny
VARIANT_OF.uniad-v2.tiny := tiny
VARIANT_OF.bench2drive.base := b2d-base
VARIANT_OF.bench2drive.tiny := b2d-tiny
