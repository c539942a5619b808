# The variant table. A variant is a row here and a short config file; nothing else in the system knows its name.
VARIANTS := full tiny nano
$(call one-of,VARIANT,$(VARIANTS))

# Stem of config and checkpoint names
STEM.full := full
STEM.tiny := tiny_imgx0.25
STEM.nano := nano

# What stage 1 starts from, unless FROM_SCRATCH=1, and where people get it
INIT.full := ckpts/bevformer_r101_dcn_24ep.pth
INIT.tiny := ckpts/bevformer_tiny_epoch_24_updated2.pth
INIT.nano :=

# /dev/shm that a container of it gets
SHM.full := 32g
SHM.tiny := 8g
SHM.nano := 2g

# Stages, and epochs of the documented schedule
STAGES := 1 2
EPOCHS.1 := 6
EPOCHS.2 := 20

CONFIG_DIR.1 := stage1_track_map
KIND.1 := track_map
CONFIG_DIR.2 := stage2_e2e
KIND.2 := e2e
