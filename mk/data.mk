##@ Data

# nuScenes lies at upstream's paths; each other world has a folder of its own with the same layout.
$(call path,DATA_DIR)
DATA_ROOT.nuscenes := $(DATA_DIR)/nuscenes
INFO_ROOT.nuscenes := $(DATA_DIR)/infos
ANCHOR_ROOT.nuscenes := $(DATA_DIR)/others
DATA_ROOT.synthetic := $(DATA_DIR)/synthetic/nuscenes
INFO_ROOT.synthetic := $(DATA_DIR)/synthetic/infos
ANCHOR_ROOT.synthetic := $(DATA_DIR)/synthetic/others
DATA_ROOT.demo := $(DATA_DIR)/demo/nuscenes
INFO_ROOT.demo := $(DATA_DIR)/demo/infos
ANCHOR_ROOT.demo := $(DATA_DIR)/demo/others
# Bench2Drive lies at Bench2DriveZoo's paths; where a world of its format is made, it lies beside the one of nuScenes'.
OF_BENCH2DRIVE := $(filter bench2drive,$(FORMAT.$(VARIANT)))
DATA_ROOT.bench2drive := $(DATA_DIR)/bench2drive
INFO_ROOT.bench2drive := $(DATA_DIR)/infos
ANCHOR_ROOT.bench2drive := $(DATA_DIR)/others
ifneq (,$(OF_BENCH2DRIVE))
DATA_ROOT.synthetic := $(DATA_DIR)/synthetic/bench2drive
DATA_ROOT.demo := $(DATA_DIR)/demo/bench2drive
endif
# The repository's own model of the synthetic world. Its anchors are that world's, also for a model that starts from nothing.
SHIPPED_HERE := $(if $(filter synthetic demo,$(DATASET)),$(wildcard $(SHIPPED.$(VARIANT))))
SHIPPED := $(if $(filter 1,$(FROM_SCRATCH) $(STAGE0)),,$(SHIPPED_HERE))
DATA_ROOT := $(DATA_ROOT.$(DATASET))
# Made worlds have files of either convention beside each other; nuScenes has those that somebody put at upstream's place.
IN_V2 := $(if $(filter-out nuscenes,$(DATASET)),$(if $(filter uniad-v2,$(CONVENTION_USED)),_uniad-v2))
INFO_ROOT := $(INFO_ROOT.$(DATASET))$(IN_V2)
ANCHOR_ROOT := $(or $(if $(IN_V2),,$(patsubst %/,%,$(dir $(SHIPPED_HERE)))),$(ANCHOR_ROOT.$(DATASET))$(IN_V2))

ifeq ($(DATASET),nuscenes)
VERSION := $(NUSC_VERSION)
else
VERSION := v1.0-trainval
endif
$(call one-of,NUSC_VERSION,v1.0-trainval v1.0-mini)

# What a config needs to hear: nothing, where the data lies at upstream's paths.
DATA_OPTIONS := $(if $(filter-out data/nuscenes data/bench2drive data/infos,$(DATA_ROOT) $(INFO_ROOT)),$(foreach p,data_root=$(DATA_ROOT) info_root=$(INFO_ROOT) anchor_root=$(ANCHOR_ROOT),$(if $(OF_BENCH2DRIVE),b2d_)$p/))
# Both stages of the demo read the same few images again and again: they are decoded once.
DATA_OPTIONS += $(if $(filter demo,$(DATASET)),native.image_cache=exact native.image_cache_dir=$(DATA_DIR)/demo/cache)

TABLES := $(DATA_ROOT)/$(VERSION)/sample.json
INFOS := $(INFO_ROOT)/nuscenes_infos_temporal_train.pkl
INFOS_VAL := $(INFO_ROOT)/nuscenes_infos_temporal_val.pkl
ANCHORS := $(ANCHOR_ROOT)/motion_anchor_infos_mode6.pkl
ifneq (,$(OF_BENCH2DRIVE))
TABLES := $(DATA_ROOT)/synthetic.json
INFOS := $(INFO_ROOT)/b2d_infos_train.pkl
INFOS_VAL := $(INFO_ROOT)/b2d_infos_val.pkl
ANCHORS := $(ANCHOR_ROOT)/b2d_motion_anchor_infos_mode6.pkl
endif

$(foreach v,JOBS EVERY SYNTH_TRAIN_SCENES SYNTH_VAL_SCENES SYNTH_FRAMES DEMO_TRAIN_SCENES DEMO_VAL_SCENES DEMO_FRAMES DEMO_JOBS,$(call positive,$v))
$(call whole,SYNTH_SEED)
$(call whole,DEMO_SEED)

# Of Bench2Drive's format they are at 10 Hz: twice as many, so that six steps of half a second lie ahead of most.
frames-of = $(if $(OF_BENCH2DRIVE),$(shell echo $$((2 * $1))),$1)
WORLD.synthetic = --train-scenes $(SYNTH_TRAIN_SCENES) --val-scenes $(SYNTH_VAL_SCENES) --frames $(call frames-of,$(SYNTH_FRAMES)) --seed $(SYNTH_SEED)
WORLD.demo = --train-scenes $(DEMO_TRAIN_SCENES) --val-scenes $(DEMO_VAL_SCENES) --frames $(call frames-of,$(DEMO_FRAMES)) --seed $(DEMO_SEED)

.PHONY: data
data: $(INFOS) $(INFOS_VAL) ## Prepare the dataset: DATASET=synthetic makes one, nuscenes uses data/nuscenes

ifneq (,$(OF_BENCH2DRIVE))
ifeq ($(DATASET),bench2drive)
$(INFOS) $(INFOS_VAL):
	@echo 'error: $@ is missing: make it with prepare_B2D.py of Thinklab-SJTU/Bench2DriveZoo (docs/bench2drive.md), or use DATASET=synthetic' >&2; exit 2
else
# One command makes images, infos and maps.
$(TABLES): .make/var/WORLD.$(DATASET) | $(DATA_ENV)
	$(call hold-or-wait,$(DATA_ROOT).lock,making $(DATA_ROOT),$@); \
	$(DATA_RUN) tools/make_synthetic_bench2drive.py --out $(call q,$(DATA_ROOT)) --infos $(call q,$(INFO_ROOT)) $(WORLD.$(DATASET)) --workers $(JOBS)
$(INFOS) $(INFOS_VAL): $(TABLES)
	@[[ -f $@ ]] || { echo 'error: $@ is missing although $(TABLES) is there: remove $(DATA_ROOT), and run again' >&2; exit 2; }
	@touch $@
endif
else
ifeq ($(DATASET),nuscenes)
$(TABLES):
	@echo 'error: $@ is missing: $(if $(RELEASES),$(DATA_ROOT) holds $(RELEASES): NUSC_VERSION=$(firstword $(RELEASES)); `make configure` picks it,put nuScenes there (ln -s /where/nuscenes/is $(DATA_ROOT)), or use DATASET=synthetic; docs/data.md)' >&2; exit 2
RELEASES := $(patsubst $(DATA_ROOT)/%/sample.json,%,$(wildcard $(foreach v,v1.0-trainval v1.0-mini,$(DATA_ROOT)/$v/sample.json)))
else
$(TABLES): .make/var/WORLD.$(DATASET) | $(WORLD_ENV)
	$(call hold-or-wait,$(DATA_ROOT).lock,making $(DATA_ROOT),$@); \
	$(DATA_RUN) tools/make_synthetic_nuscenes.py --out $(call q,$(DATA_ROOT)) $(WORLD.$(DATASET)) --workers $(JOBS)
endif

MAKE_INFOS = $(DATA_RUN) tools/create_data.py nuscenes --root-path $(call q,$(DATA_ROOT)) --out-dir $(call q,$(INFO_ROOT)) \
  --extra-tag nuscenes --version $(VERSION) --canbus $(call q,$(DATA_ROOT)) --workers $(JOBS)$(if $(filter-out 1,$(EVERY)), --every $(EVERY))$(if $(CONVENTION_USED), --convention $(CONVENTION_USED))$(if $(DATA_ARGS), $(DATA_ARGS))

ifeq ($(DATASET),nuscenes)
# Infos that are there stay, whoever made them: copied files are often older than the tables. Remove them to make new ones.
$(INFOS): | $(TABLES) $(DATA_ENV)
else
$(INFOS): $(TABLES) | $(DATA_ENV)
endif
	$(call hold-or-wait,$(INFO_ROOT).lock,writing $(INFO_ROOT),$@); \
	$(MAKE_INFOS)
	@touch $@
# One command writes both files; it runs again where only the second is missing.
$(INFOS_VAL): $(INFOS)
	@[[ -f $@ ]] || $(MAKE_INFOS)
	@touch $@
endif

# native.image_cache of CFG_OPTIONS says what it holds; training reads it by native.image_pack (docs/training.md).
.PHONY: image-pack
image-pack: $(INFOS) $(INFOS_VAL) | $(DATA_ENV) ## Decoded images in one file that many machines read, data/packs/VARIANT.images
	$(DATA_RUN) tools/pack_images.py $(call config,1) --out $(call q,$(DATA_DIR)/packs/$(VARIANT).images) --workers $(JOBS) $(call cfg-options,native.image_cache=scaled $(OPTIONS))

# Stage 2 starts from anchors; all variants share them. The published file, where somebody put it, stays as it is.
.PHONY: anchors
anchors: $(ANCHORS) ## Motion anchors by k-means from the training infos, for stage 2

ifeq (,$(if $(IN_V2),,$(SHIPPED_HERE)))
ifneq (,$(filter nuscenes bench2drive,$(DATASET)))
$(ANCHORS): | $(INFOS) $(DATA_ENV)
else
$(ANCHORS): $(INFOS) | $(DATA_ENV)
endif
	$(DATA_RUN) tools/make_motion_anchors.py projects/configs/stage2_e2e/$(STEM.$(VARIANT))_e2e.py --out $(call q,$@) $(call cfg-options,$(ANCHOR_OPTIONS))
endif
# Anchors are made for weights of the convention that is asked for, whose infos they are made from.
ANCHOR_OPTIONS = $(OPTIONS) $(if $(COMPAT_OPTIONS),,$(addprefix native.compat=,$(filter uniad-v2,$(CONVENTION_USED))))
