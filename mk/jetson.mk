##@ Jetson

JETPACKS := 5.1 6.0 6.1 6.2 7.0 7.1 7.2
# A patch release (6.2.1) has the TensorRT of its minor release.
version-words = $(subst ., ,$1)
JETPACK_MINOR := $(if $(filter 1,$(words $(JETPACK))),$(if $(filter 3,$(words $(call version-words,$(JETPACK)))),$(if $(call digits-gone,$(lastword $(call version-words,$(JETPACK)))),$(JETPACK),$(word 1,$(call version-words,$(JETPACK))).$(word 2,$(call version-words,$(JETPACK)))),$(JETPACK)))
$(if $(strip $(JETPACK)),$(if $(filter $(JETPACKS),$(JETPACK_MINOR)),,$(error JETPACK=$(JETPACK) is unknown: choose $(subst $(space),$(comma) ,$(JETPACKS)), or a patch release of one of them, such as 6.2.1)))
$(call positive,JETSON_WORKSPACE_MIB)
$(call whole,JETSON_SPARE_MIB)
$(call positive,JETSON_ITERATIONS)
$(call whole,JETSON_SECONDS)

# The TensorRT of each JetPack; it sets opset and sampling of the graph, unless TRT says otherwise.
TRT.5.1 := 8.5
TRT.6.0 := 8.6
TRT.6.1 := 10.3
TRT.6.2 := 10.3
TRT.7.0 := 10.13
TRT.7.1 := 10.13
TRT.7.2 := 10.16
ifneq (,$(JETPACK))
  TRT := $(or $(TRT),$(TRT.$(JETPACK_MINOR)))
endif

# Where: JETSON says it; else here if this machine has trtexec; else a bundle. Asked only when it matters.
JETSON_WHERE := $(JETSON)
ifneq (,$(filter jetson-engine,$(MAKECMDGOALS)))
  JETSON_WHERE := $(or $(JETSON),$(if $(TRTEXEC)$(shell command -v trtexec)$(wildcard /usr/src/tensorrt/bin/trtexec),local,bundle))
endif
JETSON_PRODUCT := engines/jetson/$(SUB)$(ONNX_NAME).$(PRECISION)$(if $(filter bundle,$(JETSON_WHERE)),.bundle.tar,.engine)
JETSON_FLAGS.$(JETSON_PRODUCT) = $(strip --where=$(call q,$(JETSON_WHERE)) --precision $(PRECISION) \
  --workspace-mib $(JETSON_WORKSPACE_MIB) --spare-mib $(JETSON_SPARE_MIB) --iterations $(JETSON_ITERATIONS) --seconds $(JETSON_SECONDS) \
  --folder=$(call q,$(JETSON_DIR)) $(if $(JETSON_SSH_FLAGS),--ssh-flags=$(call q,$(JETSON_SSH_FLAGS)))$(NO_CANARY))

export TRTEXEC
.PHONY: jetson-engine
jetson-engine: $(JETSON_PRODUCT) ## Build, verify and time the TensorRT engine on a Jetson: JETSON=user@host, here, or a bundle to carry
$(JETSON_PRODUCT): $(ENGINE_ONNX) $$(call code,jetson_engine+graph) .make/var/JETSON_FLAGS.$(JETSON_PRODUCT) | $(ENV)
	$(RUN) tools/jetson_engine.py $< --out $@ $(JETSON_FLAGS.$(JETSON_PRODUCT))
