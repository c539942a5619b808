##@ Inference and pictures

$(if $(BACKEND),$(call one-of,BACKEND,torch compiled onnxruntime engine))
$(if $(FRAMES),$(call positive,FRAMES))
$(if $(NUM_FRAME),$(call at-least,NUM_FRAME,6))
$(foreach v,SCENE FRAMES_DIR BAG BAG_TOPICS,$(if $($v),$(call path,$v)))
$(if $(and $(SCENE),$(FRAMES_DIR)),$(error SCENE=$(SCENE) and FRAMES_DIR=$(FRAMES_DIR) both say what to run along: give one))
$(if $(and $(BAG),$(or $(SCENE),$(FRAMES_DIR))),$(error BAG=$(BAG) and $(if $(SCENE),SCENE=$(SCENE),FRAMES_DIR=$(FRAMES_DIR)) both say what to run along: give one))
$(if $(BAG_TOPICS),$(if $(BAG),,$(error BAG_TOPICS=$(BAG_TOPICS) is of a bag: give BAG, too)))
$(call file-there,BAG_TOPICS)
$(if $(COMPARE),$(if $(filter-out 2,$(words $(COMPARE))),$(error COMPARE=$(COMPARE) takes two folders of results, as `make infer` writes them)))

$(if $(filter . ..,$(subst /, ,$(SCENE))),$(error SCENE=$(SCENE) is no scene: give its number, its name or its token))
$(if $(call holds,$(COMPARE),: % =),$(error COMPARE=$(COMPARE) cannot be used: a path may hold no colon, percent or equals sign))

INFER_BACKEND := $(or $(BACKEND),onnxruntime)
# $(call run-by,BACKEND,checkpoint,graph): the file that it opens
run-by = $(if $(filter torch compiled,$1),$2,$(if $(filter engine,$1),$(ENGINE),$3))
INFER_MODEL := $(call run-by,$(INFER_BACKEND),$(EXPORT_CKPT),$(ONNX))
# Runs of several models, backends and scenes lie beside each other, for COMPARE.
RUN_NAME := $(NAME).$(INFER_BACKEND)/$(if $(FRAMES_DIR),$(notdir $(abspath $(FRAMES_DIR))),$(if $(BAG),$(notdir $(basename $(abspath $(BAG)))),$(subst /,_,$(or $(SCENE),0))))
# FRAMES_DIR=.. has its name from where it lies.
$(foreach v,FRAMES_DIR BAG,$(if $($v),$(call check-word,$v,$(notdir $(abspath $($v))))$(call path-is,$v,$(notdir $(abspath $($v))))))
# Of a folder its metadata tells when it was recorded anew.
RECORDED = $(if $(FRAMES_DIR),$(wildcard $(FRAMES_DIR)/frames.json),$(if $(BAG),$(firstword $(wildcard $(BAG)/metadata.yaml) $(wildcard $(BAG))) $(BAG_TOPICS),$(INFOS_VAL)))
RUN_ALONG = $(if $(FRAMES_DIR),--folder $(call q,$(FRAMES_DIR)),$(if $(BAG),--bag $(call q,$(BAG))$(if $(BAG_TOPICS), --topics $(call q,$(BAG_TOPICS))),--scene $(call q,$(or $(SCENE),0))))
INFER_DIR := outputs/$(SUB)infer/$(RUN_NAME)
VIDEO_DIR := outputs/$(SUB)video/$(if $(COMPARE),compare,$(RUN_NAME))

# An ONNX and an engine know their config by their card; where the data lies now is said to each.
INFER_FLAGS.$(INFER_DIR) = $(strip $(if $(filter torch compiled,$(INFER_BACKEND)),--config $(EXPORT_CONFIG) --backend $(INFER_BACKEND)) \
  $(RUN_ALONG) $(if $(FRAMES),--frames $(FRAMES)) $(call cfg-options,$(OPTIONS)) $(INFER_ARGS))

.PHONY: infer
infer: $(INFER_DIR)/.finished ## Run a scene (SCENE=0 FRAMES=20), folder (FRAMES_DIR=) or a car's bag (BAG=) through a BACKEND
	@echo $(call q,$(INFER_DIR))
$(INFER_DIR)/.finished: $(INFER_MODEL) $(RECORDED) \
  $$(call code,infer$(if $(filter torch compiled,$(INFER_BACKEND)),,+graph)) .make/var/INFER_FLAGS.$(INFER_DIR) | $(ENV)
	$(RUN) tools/infer.py $(call q,$(INFER_MODEL)) --out $(call q,$(@D)) $(INFER_FLAGS.$(INFER_DIR))
	@mkdir -p $(call q,$(@D)); touch $(call q,$@)

ifneq ($(EVALUATED),$(RESULTS))
$(EVALUATED): $(INFER_MODEL) $(READ_CONFIG) $(INFOS_VAL) $$(call code,test$(if $(filter compiled,$(BACKEND)),,+graph)) .make/var/EVAL_FLAGS.$(EVALUATED) | $(ENV)
	$(EVALUATE)
$(EVALUATED): private EVAL_CONFIG = $(READ_CONFIG)
ifneq ($(BACKEND),compiled)
$(EVALUATED): private HERE = 1
endif
$(EVALUATED): private EVAL_BACKEND = $(if $(filter compiled,$(BACKEND)), --backend compiled)
EVAL_FLAGS.$(EVALUATED) = $(READ_CONFIG) $(INFER_MODEL) $(OPTIONS) $(EVAL_ARGS)
endif

$(call whole,ENDURANCE_FRAMES)
.PHONY: endurance
endurance: $(INFER_MODEL) $(INFOS_VAL) | $(ENV) ## An hour of frames through a BACKEND: memory, latency, scene A after scene B
	$(RUN) benchmarks/endurance.py $(call q,$(INFER_MODEL)) --frames $(ENDURANCE_FRAMES) --out $(call q,outputs/$(SUB)endurance.$(INFER_BACKEND).json) \
	  $(if $(filter torch compiled,$(INFER_BACKEND)),--config $(EXPORT_CONFIG) --backend $(INFER_BACKEND)) $(call cfg-options,$(OPTIONS))

# By time, where endurance goes by frames. Through a graph or a TensorRT engine the recorded sequence beside the ONNX, so that no data
# set is needed on a car; a checkpoint takes scenes of the data set.
$(call amount,SOAK_MINUTES)
SOAK_DIR := outputs/$(SUB)soak/$(NAME).$(INFER_BACKEND)
.PHONY: soak
soak: $(INFER_MODEL) $(if $(filter torch compiled,$(INFER_BACKEND)),$(INFOS_VAL)) | $(ENV) ## An hour (SOAK_MINUTES) of a BACKEND: latency over time, memory, heat; says whether it is ready
	$(RUN) tools/soak.py $(call q,$(INFER_MODEL)) --out $(call q,$(SOAK_DIR)) $(strip --minutes $(SOAK_MINUTES) \
	  $(if $(filter torch compiled,$(INFER_BACKEND)),--config $(EXPORT_CONFIG) --backend $(INFER_BACKEND) $(call cfg-options,$(OPTIONS))) \
	  $(if $(filter engine,$(INFER_BACKEND)),--onnx $(call q,$(ENGINE_ONNX))) $(SOAK_ARGS))

# `make visualize` draws one frame; asked for a scene, a folder or two runs, it makes their pictures and videos.
PICTURES = $(if $(SCENE)$(FRAMES_DIR)$(BAG)$(BACKEND)$(COMPARE),$(VIDEO_DIR)/.finished,$(PNG))
VIDEO_OF = $(if $(COMPARE),--compare $(call qs,$(COMPARE)),$(call q,$(INFER_DIR)))
VIDEO_FLAGS.$(VIDEO_DIR) = $(VIDEO_OF) $(VIDEO_ARGS)
$(VIDEO_DIR)/.finished: $(if $(COMPARE),$(addsuffix /summary.json,$(COMPARE)),$(INFER_DIR)/.finished) $$(call code,make_video+graph) .make/var/VIDEO_FLAGS.$(VIDEO_DIR) | $(ENV)
	$(RUN) tools/make_video.py $(VIDEO_OF) --out $(call q,$(@D))$(if $(COMPARE),,$(SCORES)) $(VIDEO_ARGS)
	@mkdir -p $(call q,$(@D)); touch $(call q,$@)
$(if $(COMPARE),$(eval $(addsuffix /summary.json,$(COMPARE)): ; @echo 'error: $$(@D) holds no results; `make infer` writes them' >&2; exit 2))

# The same as a recording for Rerun's viewer, in three dimensions and with a timeline
VIEW_DIR := outputs/$(SUB)view/$(RUN_NAME)
VIEW_FLAGS.$(VIEW_DIR) = $(call q,$(INFER_DIR)) $(VIEW_ARGS)
.PHONY: view
view: $(VIEW_DIR)/.finished ## Write the drive as a Rerun recording, outputs/view/...rrd: images, boxes, map, forecasts, plan, cells
	@echo 'open it: $(if $(filter host,$(TOOLS_RUNTIME)),$(VENV)/bin/)rerun $(VIEW_DIR)/*.rrd      (--web-viewer: in a browser)'
$(VIEW_DIR)/.finished: $(INFER_DIR)/.finished $$(call code,make_recording+graph) .make/var/VIEW_FLAGS.$(VIEW_DIR) | $(ENV)
	$(RUN) tools/make_recording.py $(call q,$(INFER_DIR)) --out $(call q,$(@D))$(SCORES) $(VIEW_ARGS)
	@mkdir -p $(call q,$(@D)); touch $(call q,$@)

# A scene as a car would have recorded it, for BAG=
MADE_BAG := outputs/$(SUB)bag/drive_$(subst /,_,$(or $(SCENE),0)).mcap
$(if $(BAG),$(if $(filter bag,$(MAKECMDGOALS)),$(error BAG=$(BAG) is a bag to read, and `make bag` writes $(MADE_BAG): leave BAG out)))
BAG_FLAGS.$(MADE_BAG) = $(strip $(call config,2) --scene $(call q,$(or $(SCENE),0)) $(if $(FRAMES),--frames $(FRAMES)) $(call cfg-options,$(OPTIONS)) $(BAG_ARGS))
.PHONY: bag
bag: $(MADE_BAG) ## Write a scene (SCENE=0) as a bag of ROS 2, as a car would have recorded it: outputs/bag/...mcap
	@echo $(call q,$(MADE_BAG))
# A bag that is to be read is whatever lies there, of whatever length and scene: it is not written anew.
ifeq ($(BAG),)
$(MADE_BAG): $(INFOS_VAL) $$(call code,make_bag) .make/var/BAG_FLAGS.$(MADE_BAG) | $(ENV)
	@mkdir -p $(call q,$(@D))
	$(RUN) tools/make_bag.py --out $(call q,$@) $(BAG_FLAGS.$@)
endif

METADATA := nuscenes_np/$(SUB)
METADATA_FLAGS = $(strip --config $(call config,2) --dump_folder $(call q,$(METADATA:%/=%)) $(if $(NUM_FRAME),--num_frame $(NUM_FRAME)) $(call cfg-options,$(OPTIONS)))

.PHONY: metadata
metadata: $(METADATA)uniad_trt_input/info.txt ## Write nuscenes_np/uniad_{onnx,trt}_input, which upstream's deployment reads; NUM_FRAME=69
$(METADATA)uniad_trt_input/info.txt: $(INFOS_VAL) $(if $(wildcard $(METADATA)uniad_onnx_input),,FORCE) .make/var/METADATA_FLAGS | $(ENV)
	$(RUN) tools/process_metadata.py $(METADATA_FLAGS)
