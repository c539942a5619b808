##@ Start here

DEMO_PRODUCTS := $(DATA_DIR)/demo projects/work_dirs/demo ckpts/demo onnx/demo engines/demo outputs/demo

$(foreach v,DEMO_ITERS.nano DEMO_ITERS.tiny DEMO_ITERS.full,$(call whole,$v))

.PHONY: demo
demo: ## From nothing to a verified engine in minutes: data, training, evaluation, export, engine, a picture
	@$(MAKE) demo-steps DATASET=demo VARIANT=$(DEMO_VARIANT) MAX_ITERS=$(DEMO_ITERS.$(DEMO_VARIANT)) TRAIN_ARGS=$(call q,$(DEMO_TRAIN_ARGS))

# In the order that a person would type them; each is done once.
DEMO_STEPS := env data train eval export verify engine visualize
.PHONY: demo-steps
demo-steps: | $(DEMO_STEPS)
	@$(RUN) tools/demo_summary.py --variant $(VARIANT) --data $(call q,$(DATA_ROOT)) --infos $(call q,$(INFOS)) --checkpoint $(call q,$(CKPT)) \
	  --results $(call q,$(RESULTS)) --onnx $(call q,$(ONNX)) --report $(call q,$(REPORT)) --engine $(call q,$(ENGINE)) --picture $(call q,$(PNG))
