##@ Data

# Published files, where they come from, and what is made of them. WEIGHTS_URL.<file> names another address (a Google Drive
# mirror goes through gdown); WEIGHTS_DIR is a folder of files that you have.
BEVFORMER ?= https://github.com/zhiqi-li/storage/releases/download/v1.0
UNIAD_V2_FILES ?= https://huggingface.co/OpenDriveLab/UniAD2.0_R101_nuScenes/resolve/main
UNIAD_RELEASE ?= https://github.com/OpenDriveLab/UniAD/releases/download/v1.0
WEIGHTS_FROM.bevformer_tiny_epoch_24.pth := $(BEVFORMER)/bevformer_tiny_epoch_24.pth
WEIGHTS_FROM.bevformer_r101_dcn_24ep.pth := $(BEVFORMER)/bevformer_r101_dcn_24ep.pth
WEIGHTS_FROM.motion_anchor_infos_mode6.pkl := $(UNIAD_RELEASE)/motion_anchor_infos_mode6.pkl
WEIGHTS_FROM.nuscenes_infos_temporal_train.pkl := $(UNIAD_RELEASE)/nuscenes_infos_temporal_train.pkl
WEIGHTS_FROM.nuscenes_infos_temporal_val.pkl := $(UNIAD_RELEASE)/nuscenes_infos_temporal_val.pkl
WEIGHTS_FROM.r101_dcn_fcos3d_pretrain.pth := $(UNIAD_V2_FILES)/ckpts/r101_dcn_fcos3d_pretrain.pth
WEIGHTS_FROM.resnet50-0676ba61.pth := https://download.pytorch.org/models/resnet50-0676ba61.pth
# Digests that publishers state (projects/uniad/formats/published.py): a download with another one is refused.
DIGEST_OF.r101_dcn_fcos3d_pretrain.pth := 91d8a649e007663121a64c0511d486fff1d421b77d61359399dd0a821fe633e8
ifeq ($(GENERATION),uniad-v2)
WEIGHTS_FROM.motion_anchor_infos_mode6.pkl := $(UNIAD_V2_FILES)/data/motion_anchor_infos_mode6.pkl
WEIGHTS_FROM.nuscenes_infos_temporal_train.pkl := $(UNIAD_V2_FILES)/data/nuscenes_infos_temporal_train.pkl
WEIGHTS_FROM.nuscenes_infos_temporal_val.pkl := $(UNIAD_V2_FILES)/data/nuscenes_infos_temporal_val.pkl
DIGEST_OF.motion_anchor_infos_mode6.pkl := 05c84020204841eb45a1599228e4452b021213a83d8f7a63b40b47531f0cac6b
DIGEST_OF.nuscenes_infos_temporal_train.pkl := e0d727dbc6abe11781449ba840a193ada0d8ce178478c01b2f37815950b9ba57
DIGEST_OF.nuscenes_infos_temporal_val.pkl := 725eaabd9711a8a532f912393d5fa8fc57d0f9d0669da319c867d759eaf75550
endif

$(call flag,PUBLISHED)

setting = $(if $(filter-out undefined,$(origin $1)),$($1))
# $(call fetch,file)
fetch = $(HOST_PYTHON) tools/fetch_weights.py --out $(call q,$1) $(foreach u,$(call setting,WEIGHTS_URL.$(notdir $1)) $(WEIGHTS_FROM.$(notdir $1)),--url $(call q,$u)) \
  $(if $(WEIGHTS_DIR),--have $(call q,$(WEIGHTS_DIR))) $(foreach d,$(or $(call setting,WEIGHTS_SHA256.$(notdir $1)),$(call setting,DIGEST_OF.$(notdir $1))),--sha256 $(call q,$d))

PUBLISHED_INFOS := $(DATA_DIR)/infos/nuscenes_infos_temporal_train.pkl $(DATA_DIR)/infos/nuscenes_infos_temporal_val.pkl
ANCHORS.nuscenes := $(DATA_DIR)/others/motion_anchor_infos_mode6.pkl

.PHONY: weights init-weights
weights: ## Fetch published weights, anchors and infos (WEIGHTS_DIR: those you have); checks those that are there
	$(foreach f,$(RAW.$(VARIANT)) $(if $(filter nuscenes,$(DATASET)),$(ANCHORS.nuscenes) $(if $(filter 1,$(PUBLISHED)),$(PUBLISHED_INFOS))),$(call fetch,$f)$(newline))
init-weights: $$(INIT_WEIGHTS) ## Make BEVFormer weights ready for stage 1 (tiny: adds the ego query, renames parameters)

# Files of variants share a name where they start from the same. Of several makes, on one machine or on several that share the
# folder, one downloads and the others wait for it.
$(sort $(foreach v,$(VARIANTS),$(RAW.$v) $(BACKBONE.$v))):
	@$(call hold-or-wait,$@.lock,fetching $@,$@); \
	$(call fetch,$@) || { echo 'or train from nothing: FROM_SCRATCH=1' >&2; exit 2; }
# STACK=torch1.12 makes it where the workflow does, in its container (mk/upstream.mk).
INIT_WEIGHTS = $(if $(INIT.$(VARIANT)),$(if $(filter torch1.12,$(STACK)),$(TREE)/)$(INIT.$(VARIANT)))
define init-rule
$(word 1,$1): $(word 2,$1) | $(ENV)
	$$(RUN) tools/postprocess_bevformer_tiny_epoch_24_pth.py $$< $$@
endef
made-of = $(foreach v,$(VARIANTS),$(if $(RAW.$v),$(if $(filter-out $(RAW.$v),$(INIT.$v)),$(INIT.$v):$(RAW.$v))))
ifeq ($(STACK),native)
$(foreach m,$(sort $(made-of)),$(eval $(call init-rule,$(subst :, ,$m))))
endif
