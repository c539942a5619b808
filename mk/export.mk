##@ Export and verification

$(if $(EXPORT_SAMPLING),$(call one-of,EXPORT_SAMPLING,gridsample gather plugin))
$(if $(EXPORT_FRAMES),$(call positive,EXPORT_FRAMES))
$(call flag,LOCATE)
$(call flag,REFIT)
$(if $(TRT),$(call one-of,TRT,8.5 8.6 10.3 10.13 10.16 11 rtx))
$(call some-of,VERIFY_BACKENDS,torch compiled onnxruntime)

# Upstream's names are those of the end-to-end model; stage 1 has names of its own.
ONNX_NAME.1 := uniad_$(VARIANT)_track_map
ONNX_NAME.2 := uniad_$(patsubst uniad_%,%,$(STEM.$(VARIANT)))_cp
ONNX_NAME := $(if $(FOREIGN),$(NAME),$(ONNX_NAME.$(STAGE)))
ONNX := onnx/$(SUB)$(ONNX_NAME).onnx
REPORT := $(ONNX).verify.json
# The end-to-end step leaves by upstream's export config, from the checkpoint under its name in deployment.
EXPORT_CONFIG := $(or $(wildcard $(READ_CONFIG:.py=_trt_p.py)),$(READ_CONFIG))
EXPORT_CKPT := $(if $(CKPT)$(RANDOM_CKPT),$(READ),$(if $(filter 2,$(STAGE)),$(or $(if $(DEPLOY_FROM),$(DEPLOYED)),$(READ)),$(READ)))
EXPORT_OF.$(ONNX) = $(EXPORT_CONFIG) $(EXPORT_CKPT)

EXPORT_FLAGS.$(ONNX) = $(strip $(if $(TRT),--trt $(call q,$(TRT))) $(if $(EXPORT_SAMPLING),--sampling $(EXPORT_SAMPLING)) $(if $(EXPORT_FRAMES),--frames $(EXPORT_FRAMES)) $(call cfg-options,$(OPTIONS)))
LOCATE_FLAG.0 := --locate never
LOCATE_FLAG.1 := --locate always
VERIFY_FLAGS.$(ONNX) = --backend $(call q,$(VERIFY_BACKENDS))$(if $(LOCATE), $(LOCATE_FLAG.$(LOCATE)))

.PHONY: export verify compare-sampling
export: $(ONNX) ## Write the trained step as one static ONNX, with card and recorded sequence; REFIT=1 renews its weights
verify: $(REPORT) ## Replay the recorded sequence with fed-back state and compare every output

EXPORT_OF := $(EXPORT_CKPT) $(EXPORT_CONFIG) $(INFOS_VAL) $(if $(filter 2,$(STAGE)),$(wildcard $(ANCHORS))) $$(call code,export_onnx) .make/var/EXPORT_FLAGS.$(ONNX) .make/var/EXPORT_OF.$(ONNX)
REFITTED := $(if $(filter 1,$(REFIT)), --refit)
$(ONNX): $(EXPORT_OF) | $(ENV)
	$(RUN) tools/export_onnx.py $(EXPORT_CONFIG) $(call q,$(EXPORT_CKPT)) --out $@ $(EXPORT_FLAGS.$(ONNX))$(REFITTED)

$(REPORT): $(ONNX) $$(call code,verify$$(if $$(filter torch compiled,$$(subst $$(comma), ,$$(VERIFY_BACKENDS))),,+graph)) .make/var/VERIFY_FLAGS.$(ONNX) | $(ENV)
	$(RUN) tools/verify.py $< --out $@ $(VERIFY_FLAGS.$(ONNX)) || { rm -f $@; exit 1; }

# The same step by either way of sampling, beside the graph that is deployed.
SAMPLING_ONNX := $(foreach s,gridsample gather,$(ONNX:.onnx=.$s.onnx))
SAMPLING_REPORT := $(ONNX:.onnx=.sampling.json)
compare-sampling: $(SAMPLING_REPORT) ## Replay one recorded sequence through both exports, GridSample and gather, and print how they differ
$(SAMPLING_ONNX): $(ONNX:.onnx=).%.onnx: $(EXPORT_OF) | $(ENV)
	$(RUN) tools/export_onnx.py $(EXPORT_CONFIG) $(call q,$(EXPORT_CKPT)) --out $@ $(EXPORT_FLAGS.$(ONNX)) --sampling $*

$(SAMPLING_REPORT): $(SAMPLING_ONNX) $$(call code,compare_sampling+graph) | $(ENV)
	$(RUN) tools/compare_sampling.py $(SAMPLING_ONNX) --out $@

# Pictures name the scores of their model, where `make eval` has written them by then.
SCORES = $(if $(filter native,$(STACK)), --scores $(call q,$(RESULTS)))
PNG := outputs/$(SUB)$(NAME).png
VISUALIZE_FLAGS.$(PNG) = $(call cfg-options,$(OPTIONS)) $(VISUALIZE_ARGS)
VISUALIZE_OF.$(PNG) = $(READ_CONFIG) $(READ)

.PHONY: visualize
visualize: $$(PICTURES) ## Draw what the model says of a frame; with SCENE=0 a video of a scene, with COMPARE='A B' of two runs
$(PNG): $(READ) $(READ_CONFIG) $(INFOS_VAL) $$(call code,visualize) .make/var/VISUALIZE_FLAGS.$(PNG) .make/var/VISUALIZE_OF.$(PNG) | $(ENV)
	$(RUN) tools/visualize.py $(READ_CONFIG) $(call q,$(READ)) --out $@$(SCORES) $(VISUALIZE_FLAGS.$(PNG))
