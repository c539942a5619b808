##@ Before it drives a car

$(foreach s,$(SEVERITIES),$(if $(filter 1 2 3,$s),,$(error SEVERITIES=$(SEVERITIES) names $s: choose of 1 2 3, with blanks between)))
$(call positive,ROUTES)
$(call one-of,TRAFFIC,replay reactive)
$(if $(and $(SEVERITIES),$(filter all,$(ROBUST))),$(error SEVERITIES=$(SEVERITIES) and ROBUST=all both say which severities: give one))
$(if $(ROBUST_ROUTES),$(call whole,ROBUST_ROUTES))
# The checkpoint as `make eval` takes it, in PyTorch, unless a BACKEND is named; then the graph or TensorRT engine of PRECISION.
ASSESSED_BACKEND := $(or $(BACKEND),torch)
ASSESSED := $(call run-by,$(ASSESSED_BACKEND),$(READ),$(ENGINE_ONNX))
ASSESSED_NAME := $(NAME).$(ASSESSED_BACKEND)$(if $(filter torch compiled,$(ASSESSED_BACKEND)),,$(if $(filter-out fp32,$(PRECISION)),.$(PRECISION)))
ASSESSED_FLAGS = $(if $(filter torch compiled,$(ASSESSED_BACKEND)),--config $(READ_CONFIG) --backend $(ASSESSED_BACKEND)) \
  $(if $(SCENE),--scene $(call q,$(SCENE))) $(if $(FRAMES),--frames $(FRAMES)) --seed $(SEED) $(call cfg-options,$(OPTIONS))
ASSESSED_CODE = $(if $(filter torch compiled,$(ASSESSED_BACKEND)),,+graph)
# Numbers do not depend on JOBS. Several processes share a GPU only where somebody says so.
ASSESS_JOBS = --jobs $(if $(or $(filter 0,$(GPUS)),$(call given,JOBS)),$(JOBS),1)

ASSESS_DEFAULT = DATASET=demo VARIANT=$(DEFAULT_DEMO) STAGE=2 STACK=native

AUDIT_DIR := outputs/$(SUB)audit/$(ASSESSED_NAME)
AUDIT_FLAGS.$(AUDIT_DIR) = $(strip $(ASSESSED_FLAGS) $(AUDIT_ARGS))
ROBUST_DIR := outputs/$(SUB)robust/$(ASSESSED_NAME)
ROBUST_FLAGS.$(ROBUST_DIR) = $(strip $(ASSESSED_FLAGS) --faults $(or $(ROBUST),all) --severities $(or $(SEVERITIES),$(if $(filter all,$(ROBUST)),1 2 3,3)) --routes $(or $(ROBUST_ROUTES),$(if $(filter nuscenes,$(DATASET)),0,1)) $(ROBUST_ARGS))

# Drives that are there are not made again (tools/drive.py looks what they were made with), so the target asks the tool every time.
DRIVE_DIR := outputs/$(SUB)drive/$(ASSESSED_NAME).$(TRAFFIC)
DRIVE_FLAGS = $(strip $(if $(filter torch compiled,$(ASSESSED_BACKEND)),--config $(READ_CONFIG) --backend $(ASSESSED_BACKEND)) \
  --routes $(ROUTES) $(if $(call given,SEED),--seed $(SEED)) --traffic $(TRAFFIC) $(call cfg-options,$(OPTIONS)) $(DRIVE_ARGS))

.PHONY: robust audit drive
ifeq ($(ASSESS_SAID),)
robust: ## Score a model under broken sensors, relative to clean: table, heat map; ROBUST=all for every severity
	@$(MAKE) $@ $(ASSESS_DEFAULT)
audit: ## Show what the plan rests on: images, ego status, command; one page, by manoeuvre and speed
	@$(MAKE) $@ $(ASSESS_DEFAULT)
drive: ## Drive a model in closed loop through ROUTES of the synthetic world, beside expert and baselines
	@$(MAKE) $@ $(ASSESS_DEFAULT)
else
robust: $(ROBUST_DIR)/report.json
	@echo $(call q,$(ROBUST_DIR)/report.md)
$(ROBUST_DIR)/report.json: $(ASSESSED) $(READ_CONFIG) $(INFOS_VAL) $$(call code,robust$(ASSESSED_CODE)) .make/var/ROBUST_FLAGS.$(ROBUST_DIR) | $(ENV)
	$(RUN) tools/robust.py $(call q,$<) --out $(call q,$(@D)) $(ROBUST_FLAGS.$(ROBUST_DIR)) $(ASSESS_JOBS)
audit: $(AUDIT_DIR)/report.json
	@echo $(call q,$(AUDIT_DIR)/report.md)
$(AUDIT_DIR)/report.json: $(ASSESSED) $(READ_CONFIG) $(INFOS) $(INFOS_VAL) $$(call code,audit$(ASSESSED_CODE)) .make/var/AUDIT_FLAGS.$(AUDIT_DIR) | $(ENV)
	$(RUN) tools/audit.py $(call q,$<) --out $(call q,$(@D)) $(AUDIT_FLAGS.$(AUDIT_DIR)) $(ASSESS_JOBS)
drive: $(ASSESSED) $(READ_CONFIG) | $(ENV)
	$(RUN) tools/drive.py $(call q,$<) --out $(call q,$(DRIVE_DIR)) $(DRIVE_FLAGS) $(ASSESS_JOBS)
endif
