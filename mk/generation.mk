# Whose conventions the weights have. A checkpoint that was brought is recognised by its digest, or by names and shapes, and said so;
# from what it is follow its variant, its stage and native.compat, where nobody says otherwise (docs/weights.md).
$(if $(GENERATION),$(call one-of,GENERATION,uniad-v1 uniad-v2 bench2drive))
$(if $(CONVENTION),$(call one-of,CONVENTION,uniad-v1 uniad-v2))
ASKS_WHAT := $(filter eval eval-stage% export verify compare-sampling visualize view infer engine quantize jetson-engine robust,$(MAKECMDGOALS))
RECOGNISED := $(if $(and $(CKPT),$(ASKS_WHAT),$(filter native,$(STACK))),$(if $(wildcard $(CKPT)),$(shell $(CONFIGURED_PYTHON) mk/lib/recognise.py $(call q,$(CKPT))$(if $(GENERATION), --said $(GENERATION)))))
$(if $(filter wrong,$(firstword $(RECOGNISED))),$(error $(wordlist 2,99,$(RECOGNISED))))
$(if $(and $(RECOGNISED),$(DRY_RUN)$(wildcard config.mk)),$(info $(wordlist 5,99,$(RECOGNISED))))
MODEL_OF_CKPT := $(word 1,$(RECOGNISED)).$(word 2,$(RECOGNISED))
ifneq (,$(RECOGNISED))
  ifeq (,$(call given,VARIANT)$(CONFIG)$(filter %.-,$(MODEL_OF_CKPT)))
    VARIANT := $(or $(VARIANT_OF.$(MODEL_OF_CKPT)),$(error $(CKPT) is the $(word 2,$(RECOGNISED)) of $(word 1,$(RECOGNISED)), for which no variant is here: name a VARIANT, or a CONFIG))
  endif
  ifeq (,$(call given,STAGE)$(filter eval-stage%,$(MAKECMDGOALS)))
    STAGE := $(word 3,$(RECOGNISED))
  endif
  ifeq (,$(CONFIG)$(filter $(if $(filter bench2drive,$(word 1,$(RECOGNISED))),bench2drive,nuscenes),$(FORMAT.$(VARIANT))))
    $(error $(CKPT) is of $(word 1,$(RECOGNISED)), VARIANT=$(VARIANT) has classes, commands and maps of $(FORMAT.$(VARIANT)): leave VARIANT out, or take $(or $(VARIANT_OF.$(MODEL_OF_CKPT)),one of its own))
  endif
endif
# Config values, as everybody's own go before: CFG_OPTIONS=native.compat=... is heard last
COMPAT_OPTIONS := $(if $(RECOGNISED),$(filter-out -,$(word 4,$(RECOGNISED))),$(if $(GENERATION),native.compat=$(GENERATION)))
# Of infos and anchors: what is said, else what the weights are for
CONVENTION_USED := $(or $(CONVENTION),$(filter uniad-v2,$(GENERATION) $(word 1,$(RECOGNISED))))
