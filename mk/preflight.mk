##@ Workspace

# Whatever trains asks first whether it can, and says how long it takes: before a clone, an image, an environment or a download.
PREFLIGHT_FRAMES.synthetic = $(shell echo $$(( $(SYNTH_TRAIN_SCENES) * $(SYNTH_FRAMES) )))
PREFLIGHT_FRAMES.demo = $(shell echo $$(( $(DEMO_TRAIN_SCENES) * $(DEMO_FRAMES) )))
# "train" and the like ask for both stages; a goal that reads a checkpoint trains only where there is none.
# A stage whose checkpoint was brought is not trained.
lacking = $(if $(wildcard $(call read-for,$1) $(call finished,$1) $(if $(filter torch1.12,$(STACK)),$(UNIAD_TRAIN)/UniAD/$(call ckpt,$1))),,$1)
WANTED := $(sort $(if $(filter-out eval-stage%,$(READERS)),$(STAGE)) $(patsubst eval-stage%,%,$(filter eval-stage%,$(READERS))))
UNREADY := $(if $(ASKED_TO_TRAIN)$(RANDOM_CKPT),,$(foreach s,$(WANTED),$(call lacking,$s)))
# A run of another length is not what the same command would train: said, or its checkpoint would be trained for again.
of-other-length = $(filter-out latest.pth,$(notdir $(wildcard $(dir $(call finished,$1))iter_*.pth $(dir $(call finished,$1))epoch_*.pth)))
length-hint = $(if $(call of-other-length,$1),. $(dir $(call finished,$1)) has $(call of-other-length,$1): give that run's MAX_ITERS or EPOCHS too$(comma) or its file as CKPT)
$(foreach s,$(UNREADY),$(if $(SAY),$(info $(call read-for,$s): not there, so `make $(or $(filter eval-stage$s,$(READERS)),$(firstword $(READERS)))` trains it first; CKPT=FILE takes one that you have$(call length-hint,$s))))
# Stage 0 is trained where it is asked for, and before the others where STAGE0=1 finds no checkpoint of it.
STAGE0_ALONE := $(if $(and $(filter train-stage0,$(ASKED_TO_TRAIN)),$(if $(filter-out train-stage0,$(ASKED_TO_TRAIN)),,1))$(call same,$(UNREADY),0),0)
STAGE0_TOO := $(if $(or $(filter train-stage0,$(ASKED_TO_TRAIN)),$(and $(filter 1,$(STAGE0)),$(if $(filter train train-stage1,$(ASKED_TO_TRAIN)),1))),$(if $(wildcard $(call ckpt,0)),,0))
PREFLIGHT_STAGES := $(or $(STAGE0_ALONE),$(strip $(STAGE0_TOO) $(if $(filter train-stage1,$(MAKECMDGOALS)),1,$(if $(call same,$(UNREADY),1),1,$(or $(strip $(foreach s,$(STAGES),$(if $(filter $(call ckpt,$s),$(BROUGHT)),,$s))),$(STAGES))))))
NO_WORKERS := $(filter data.workers_per_gpu=0,$(CFG_OPTIONS) $(CPU_OPTIONS))
PREFLIGHT = $(HOST_PYTHON) tools/preflight.py --stack $(STACK) --runtime $(if $(filter torch1.12,$(STACK)),$(RUNTIME),$(TOOLS_RUNTIME)) --variant $(VARIANT) --dataset $(DATASET) \
  --data $(call q,$(DATA_ROOT)) --infos $(call q,$(INFOS)) --nusc-version $(VERSION)$(if $(DATA_ARGS), --data-args=$(call q,$(DATA_ARGS)))$(if $(filter nuscenes bench2drive,$(DATASET)),, --frames $(PREFLIGHT_FRAMES.$(DATASET))) \
  --gpu-count $(GPUS) --nodes $(NNODES) --stages $(PREFLIGHT_STAGES) --epochs $(foreach s,$(STAGES),$(or $(EPOCHS.$s),$(SCHEDULE.$s)))$(if $(MAX_ITERS.1)$(MAX_ITERS.2), --iterations $(foreach s,$(STAGES),$(or $(MAX_ITERS.$s),0))) \
  --shm $(SHM.$(VARIANT)) --shm-size $(SHM_SIZE)$(if $(NO_WORKERS), --no-workers)$(if $(GPU_GIB.$(VARIANT)), --gpu-gib $(GPU_GIB.$(VARIANT)))$(if $(QUEUE_LENGTH), --queue-length $(QUEUE_LENGTH))$(if $(RECIPE_USED), --recipe $(RECIPE_USED))$(if $(filter 0,$(PREFLIGHT_STAGES)), --epochs0 $(or $(EPOCHS.0),$(SCHEDULE.0))$(if $(MAX_ITERS.0), --iterations0 $(MAX_ITERS.0))) \
  --pace $(call q,$(PACE.$(VARIANT)))

.PHONY: preflight
preflight: ## Say what a training would stop at here, and how long it would take
	@$(PREFLIGHT)

UNTRAINED := $(strip $(if $(filter-out demo-steps,$(ASKED_TO_TRAIN)),$(foreach s,$(PREFLIGHT_STAGES),$(if $(wildcard $(if $(filter 0,$s),$(trained-0),$(call finished,$s))),,$s)),$(UNREADY)))
ifneq (,$(UNTRAINED))
$(STEPS)/clone $(foreach i,$(IMAGES),.make/image/$i) $(VENV_BEGUN) $(VENV_READY) $(sort $(foreach v,$(VARIANTS),$(RAW.$v))) $(TABLES) $(INFOS): | preflight
endif
