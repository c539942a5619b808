##@ Engine

$(call one-of,PRECISION,fp32 fp16 int8)
$(call one-of,ENGINE_BACKEND,tensorrt_rtx tensorrt trtexec)
$(call numbers,COMPUTE_CAPABILITIES)
$(call flag,CANARY)
$(call flag,ENGINE_REFITTABLE)
$(if $(WORKSPACE_GIB),$(call amount,WORKSPACE_GIB))

# The graph of each precision: types lie in it.
FP16_ONNX := $(ONNX:.onnx=_fp16.onnx)
QUANTISED := $(ONNX:.onnx=_int8.onnx)
ENGINE_ONNX.fp32 := $(ONNX)
ENGINE_ONNX.fp16 := $(FP16_ONNX)
ENGINE_ONNX.int8 := $(QUANTISED)
ENGINE_ONNX := $(ENGINE_ONNX.$(PRECISION))

$(FP16_ONNX): $(ONNX) $$(call code,convert_precision+graph) | $(ENV)
	$(RUN) tools/convert_precision.py $< --out $@

$(foreach v,CALIB_SCENES CALIB_FRAMES,$(if $($v),$(call positive,$v)))
$(if $(CALIB_METHOD),$(call one-of,CALIB_METHOD,auto percentile entropy minmax))
QUANTISE_FLAGS.$(ONNX) = $(strip $(if $(CALIB_SCENES),--scenes $(CALIB_SCENES)) $(if $(CALIB_FRAMES),--frames $(CALIB_FRAMES)) $(if $(CALIB_METHOD),--method $(CALIB_METHOD)) $(if $(KEEP_FP32),--keep $(call qs,$(KEEP_FP32))) $(QUANTIZE_ARGS))
$(QUANTISED): $(ONNX) $(INFOS) $$(call code,quantize+graph) .make/var/QUANTISE_FLAGS.$(ONNX) | $(ENV)
	$(RUN) tools/quantize.py $< --out $@ $(QUANTISE_FLAGS.$(ONNX))

# What int8 costs each task, on the validation split
$(QUANTISED).metrics.json: $(ONNX) $(QUANTISED) $(INFOS_VAL) $$(call code,compare_precision+graph) | $(ENV)
	$(RUN) tools/compare_precision.py $(ONNX) $(QUANTISED) --out $@

.PHONY: quantize
quantize: $(QUANTISED) $(QUANTISED).metrics.json ## Make the int8 graph, calibrated on driven scenes, and score it beside the fp32 one

NO_CANARY := $(if $(filter 1,$(CANARY)),, --no-canary)
ENGINE := engines/$(SUB)$(ONNX_NAME).$(PRECISION).$(ENGINE_BACKEND).engine
ENGINE_FLAGS.$(ENGINE) = --backend $(ENGINE_BACKEND) --precision $(PRECISION)$(if $(COMPUTE_CAPABILITIES), --compute-capabilities $(call q,$(COMPUTE_CAPABILITIES)))$(if $(WORKSPACE_GIB), --workspace-gib $(call q,$(WORKSPACE_GIB)))$(if $(TIMING_CACHE), --timing-cache $(call q,$(TIMING_CACHE)))$(if $(filter 1,$(ENGINE_REFITTABLE) $(REFIT)), --refittable)$(NO_CANARY)

.PHONY: engine
engine: $(ENGINE) ## Build a TensorRT engine from the ONNX, verified where a GPU is; REFIT=1 renews its weights
$(ENGINE): $(ENGINE_ONNX) $$(call code,build_engine+graph) .make/var/ENGINE_FLAGS.$(ENGINE) | $(ENV)
	$(RUN) tools/build_engine.py $< --out $@ $(ENGINE_FLAGS.$(ENGINE))$(REFITTED)

# On this machine's back end (BACKEND=onnxruntime or ENGINE_BACKEND), or where JETSON says. An ONNX that is there says which of them count.
CANARY_WHERE := $(filter-out local,$(JETSON))
CANARY_BACKEND := $(if $(filter local,$(JETSON)),trtexec,$(if $(filter onnxruntime,$(BACKEND)),onnxruntime,$(ENGINE_BACKEND)))
CANARY_NAME := $(if $(CANARY_WHERE),jetson,$(CANARY_BACKEND))
CANARY_OUT := outputs/$(SUB)canary/$(if $(filter bundle,$(JETSON)),canaries.bundle.tar,$(CANARY_NAME))
.PHONY: canary
canary: | $(ENV) ## Try micro-graphs that some TensorRT computes wrong, here or on JETSON=user@host; name what avoids it
	$(RUN) tools/canary.py --backend $(CANARY_BACKEND) --out $(call q,$(CANARY_OUT)) --cache $(call q,engines/$(if $(JETSON),jetson/)$(SUB)canary) $(strip \
	  $(if $(wildcard $(ENGINE_ONNX)),--onnx $(call q,$(ENGINE_ONNX))) $(CANARY_ARGS) \
	  $(if $(CANARY_WHERE),--where=$(call q,$(CANARY_WHERE)) --folder=$(call q,$(JETSON_DIR)) $(if $(JETSON_SSH_FLAGS),--ssh-flags=$(call q,$(JETSON_SSH_FLAGS)))))
