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

# Two steps at once with half of the cores each, which one step of a model this small leaves idle. While there is one alone, the
# training, two processes have a clip of each batch each. A make of somebody's own -j goes by that.
DEMO_AT_ONCE = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(DEMO_JOBS) )
DEMO_SHARED := $(if $(filter-out 1,$(DEMO_JOBS)),$(filter 0,$(GPUS)))
DEMO_THREADS = $(if $(DEMO_SHARED),$(if $(call given,OMP_NUM_THREADS),,OMP_NUM_THREADS=$(shell echo $$(( $(CORES) > $(DEMO_JOBS) ? $(CORES) / $(DEMO_JOBS) : 1 ))) ))
DEMO_SPLIT = $(if $(DEMO_SHARED),$(if $(or $(call given,CPU_PROCESSES),$(filter 1,$(CORES)),$(filter-out 1,$(NNODES))),,$(DEMO_PROCESSES.$(DEMO_VARIANT))))
DEMO_OPTIONS = $(strip $(if $(DEMO_SHIPPED),optimizer.lr=1e-5) $(if $(DEMO_SPLIT),data.samples_per_gpu=1))
.PHONY: demo
demo: ## From nothing to a verified engine in minutes: data, training, scores, export, engine, picture, video
	@$(DEMO_THREADS)$(MAKE) $(DEMO_AT_ONCE)demo-steps DATASET=demo VARIANT=$(DEMO_VARIANT) STAGE=2$(if $(filter torch1.12,$(STACKS.$(DEMO_VARIANT))),, STACK=native) \
	  MAX_ITERS=$(DEMO_ITERS_1) MAX_ITERS.2=$(DEMO_ITERS_2) $(addprefix CPU_PROCESSES=,$(DEMO_SPLIT)) TRAIN_ARGS=$(call q,$(DEMO_TRAIN_ARGS)$(if $(DEMO_OPTIONS), --cfg-options $(DEMO_OPTIONS)))

# Each is done once, in this order as far as another one is not ready sooner: what most others wait for comes first.
DEMO_STEPS := env data train export $(HELD) eval engine visualize verify $(VIDEO_DIR)/.finished
ifneq (,$(filter demo-steps,$(MAKECMDGOALS)))
# The longest way first: engine, replay and video wait for the graph, and nothing waits for the losses.
$(HELD): | $(ONNX)
# Pictures name the scores.
$(PNG) $(VIDEO_DIR)/.finished: | $(RESULTS)
ifeq (0,$(GPUS))
$(RESULTS): private HERE = 1
endif
endif
.PHONY: demo-steps
demo-steps: | $(DEMO_STEPS)
	@$(RUN) mk/lib/demo_summary.py --variant $(VARIANT)$(if $(filter $(DEFAULT_VARIANT),$(VARIANT)),, --other $(DEFAULT_VARIANT)) --data $(call q,$(DATA_ROOT)) --infos $(call q,$(INFOS)) --checkpoint $(call q,$(READ)) \
	  --results $(call q,$(RESULTS)) --onnx $(call q,$(ONNX)) --report $(call q,$(REPORT)) --engine $(call q,$(ENGINE)) --picture $(call q,$(PNG)) --video $(call q,$(VIDEO_DIR)) --held $(call q,$(HELD))$(if $(filter $(SHIPPED),$(START)), --continued $(call q,$(SHIPPED)))
