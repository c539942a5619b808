##@ Start here

DEMO_PRODUCTS := $(DATA_DIR)/demo projects/work_dirs/demo ckpts/demo onnx/demo engines/demo outputs/demo

$(if $(filter $(VARIANTS),$(DEMO_VARIANT)),,$(error DEMO_VARIANT=$(DEMO_VARIANT) is unknown: choose $(subst $(space),$(comma) ,$(VARIANTS))))
DEMO_ITERS_1 := $(firstword $(DEMO_ITERS))
DEMO_ITERS_2 := $(or $(word 2,$(DEMO_ITERS)),$(DEMO_ITERS_1))
$(if $(word 3,$(DEMO_ITERS))$(strip $(foreach n,$(or $(DEMO_ITERS),0),$(if $(call is-whole,$(filter-out 0,$n)),,bad))),$(error DEMO_ITERS=$(DEMO_ITERS) is unknown: give one whole number above 0, or one of each stage))

# The repository's own model is trained on for a moment, at a rate that does it no harm. What that gives is told on clips of its
# scenes, the same before and after: the losses of two log lines differ by their clips.
HELD := $(call work,2)/held.json
HELD_FLAGS = $(call config,2) $(call q,$(call ckpt,2)) --start $(if $(filter $(SHIPPED),$(START)),$(call q,$(SHIPPED)),none) --split train --clips $(DEMO_CLIPS.$(VARIANT)) $(call cfg-options,$(OPTIONS))
$(HELD): $(call ckpt,2) $(INFOS) | $(ENV)
	$(RUN) tools/held_loss.py $(HELD_FLAGS) --out $(call q,$@)
DEMO_SHIPPED := $(if $(filter 1,$(FROM_SCRATCH)),,$(wildcard $(SHIPPED.$(DEMO_VARIANT))))

.PHONY: demo
demo: ## From nothing to a verified engine in minutes: data, training, scores, export, engine, picture, video
	@$(MAKE) demo-steps DATASET=demo VARIANT=$(DEMO_VARIANT) STAGE=2$(if $(filter torch1.12,$(STACKS.$(DEMO_VARIANT))),, STACK=native) \
	  MAX_ITERS=$(DEMO_ITERS_1) MAX_ITERS.2=$(DEMO_ITERS_2) TRAIN_ARGS=$(call q,$(DEMO_TRAIN_ARGS)$(if $(DEMO_SHIPPED), --cfg-options optimizer.lr=4e-5))

# In the order that a person would type them; each is done once.
DEMO_STEPS := env data train $(HELD) eval export verify engine visualize $(VIDEO_DIR)/.finished
.PHONY: demo-steps
demo-steps: | $(DEMO_STEPS)
	@$(RUN) mk/lib/demo_summary.py --variant $(VARIANT)$(if $(filter $(DEFAULT_VARIANT),$(VARIANT)),, --other $(DEFAULT_VARIANT)) --data $(call q,$(DATA_ROOT)) --infos $(call q,$(INFOS)) --checkpoint $(call q,$(READ)) \
	  --results $(call q,$(RESULTS)) --onnx $(call q,$(ONNX)) --report $(call q,$(REPORT)) --engine $(call q,$(ENGINE)) --picture $(call q,$(PNG)) --video $(call q,$(VIDEO_DIR)) --held $(call q,$(HELD))$(if $(filter $(SHIPPED),$(START)), --continued $(call q,$(SHIPPED)))
