##@ Engine

$(call one-of,PRECISION,fp32 fp16 int8)
$(call one-of,ENGINE_BACKEND,tensorrt_rtx tensorrt trtexec)

# The graph of each precision: types lie in it.
LOWERED := $(ONNX:.onnx=_fp16.onnx)
ENGINE_ONNX.fp32 := $(ONNX)
ENGINE_ONNX.fp16 := $(LOWERED)
ENGINE_ONNX.int8 := $(ONNX)
ENGINE_ONNX := $(ENGINE_ONNX.$(PRECISION))

$(LOWERED): $(ONNX) $(foreach f,lower compare object_match future_compare map_compare,$(wildcard projects/uniad/deploy/$f.py)) | $(ENV)
	$(RUN) tools/lower_onnx.py $< --out $@

ENGINE := engines/$(SUB)$(ONNX_NAME.$(STAGE)).$(PRECISION).$(ENGINE_BACKEND).engine
ENGINE_FLAGS.$(ENGINE) = --backend $(ENGINE_BACKEND) --precision $(PRECISION)$(if $(COMPUTE_CAPABILITIES), --compute-capabilities $(call q,$(COMPUTE_CAPABILITIES)))$(if $(WORKSPACE_GIB), --workspace-gib $(call q,$(WORKSPACE_GIB)))$(if $(TIMING_CACHE), --timing-cache $(call q,$(TIMING_CACHE)))

.PHONY: engine
engine: $(ENGINE) ## Build an engine from the ONNX; on a machine with a GPU it is verified there
$(ENGINE): $(ENGINE_ONNX) .make/var/ENGINE_FLAGS.$(ENGINE) | $(ENV)
	$(RUN) tools/build_engine.py $< --out $@ $(ENGINE_FLAGS.$(ENGINE))
