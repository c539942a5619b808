##@ Containers

# --- engine -------------------------------------------------------------------------------------------------------------
ENGINE_CLI := $(if $(filter host,$(RUNTIME)),docker,$(RUNTIME))
# A terminal is handed on where there is one.
$(if $(filter host,$(RUNTIME)),,$(call path,CURDIR)$(call check-word,CURDIR,$(CURDIR)))
TTY := $(shell [ -t 0 ] && [ -t 2 ] && echo -it)
UID := $(shell id -u)
GID := $(shell id -g)
GPU_FLAGS.docker := --gpus all
GPU_FLAGS.podman := --device nvidia.com/gpu=all
# Rootless podman maps the caller to root inside unless told otherwise.
USER_FLAGS.docker := --user $(UID):$(GID)
USER_FLAGS.podman := --user $(UID):$(GID)$(if $(filter-out 0,$(shell id -u)), --userns=keep-id)
GPU_FLAGS := $(if $(filter-out 0,$(GPUS)),$(GPU_FLAGS.$(ENGINE_CLI)))
USER_FLAGS := $(USER_FLAGS.$(ENGINE_CLI))
SHM_SIZE ?= $(SHM.$(VARIANT))
# Several machines talk to each other from the hosts' addresses.
NET_FLAGS := $(if $(filter-out 1,$(NNODES)),--network host)

# $(call in-container,image,needs of /dev/shm,mounts,folder inside,more): the start of a command line
in-container = tools/in_container.sh $(IMAGE_TAG.$1) $(ENGINE_CLI) run --rm --init$(if $(TTY), $(TTY))$(if $(GPU_FLAGS), $(GPU_FLAGS)) --shm-size=$(SHM_SIZE)$(if $2, --env NEED_SHM_GIB=$2) \
  --env TINI_KILL_PROCESS_GROUP=1 $(USER_FLAGS)$(if $(NET_FLAGS), $(NET_FLAGS))$(foreach m,$3, --volume $(call q,$m)) --workdir $4$(if $5, $5)$(if $(DOCKER_FLAGS), $(DOCKER_FLAGS)) $(IMAGE_TAG.$1)

# --- images -------------------------------------------------------------------------------------------------------------
IMAGES := torch1.12 deploy jetson
IMAGE_TAG.torch1.12 := uniad_torch1.12
IMAGE_TAG.deploy := uniad_deploy
IMAGE_TAG.jetson := uniad_jetson
IMAGE ?= $(if $(filter torch1.12,$(STACK)),torch1.12,deploy)
$(call one-of,IMAGE,$(IMAGES))

BASE.torch1.12 := $(TORCH112_BASE)
BASE.deploy := $(DEPLOY_BASE)
BASE.jetson := $(JETSON_BASE)
TORCH_INDEX.torch1.12 := $(TORCH112_INDEX_URL)
TORCH_INDEX.deploy := $(DEPLOY_INDEX_URL)
TORCH_INDEX.jetson := $(JETSON_INDEX_URL)
FLAGS.torch1.12 :=
FLAGS.deploy :=
FLAGS.jetson := --platform linux/arm64

# Proxies reach the build under the names that the engine itself lets through without writing them into the image.
PROXY_ARGS := $(foreach v,http_proxy https_proxy no_proxy,$(if $(value $v),--build-arg $v))
arg = $(if $2,--build-arg $(call q,$1=$2))
# "none" is an empty address: no further index
index-arg = $(if $1,--build-arg TORCH_INDEX_URL=$(if $(filter-out none,$1),$(call q,$1)))
# What the content of an image follows from; where packages come from is not part of it.
IMAGE_FILES = $(sort $(wildcard docker/$1/*)) $(sort $(wildcard docker/setup/*))
IMAGE_DIGEST = $(shell { cat $(call IMAGE_FILES,$1); echo $(call q,$(BASE.$1) $(TORCH_INDEX.$1) $(BUILD_ARGS)); } | git hash-object --stdin)
IMAGE_THERE = $(shell $(ENGINE_CLI) image inspect --format '{{index .Config.Labels "uniad.inputs"}}' $(IMAGE_TAG.$1) 2>/dev/null)

.PHONY: image
image: .make/image/$(IMAGE) ## Build the container image of this STACK (IMAGE=torch1.12, deploy or jetson for another)

define image-rules
.make/image/$1: .make/var/IMAGE_INPUTS.$1 $$$$(if $$$$(filter $$$$(IMAGE_INPUTS.$1),$$$$(call IMAGE_THERE,$1)),,FORCE)
	tools/stage_context.sh docker/$1 .make/context/$1 $$(call q,$$(CA_CERTS)) $$(call qs,$$(WHEELS))
	$$(ENGINE_CLI) build --tag $(IMAGE_TAG.$1) --label uniad.inputs=$$(IMAGE_INPUTS.$1) $$(FLAGS.$1) $$(call arg,BASE_IMAGE,$$(BASE.$1)) $$(call index-arg,$$(TORCH_INDEX.$1)) \
	  $$(call arg,PIP_INDEX_URL,$$(PIP_INDEX_URL)) $$(call arg,PIP_TRUSTED_HOST,$$(PIP_TRUSTED_HOST)) $$(call arg,APT_MIRROR,$$(APT_MIRROR)) $$(PROXY_ARGS) $$(foreach a,$$(BUILD_ARGS),--build-arg $$(call q,$$a)) $$(BUILD_FLAGS) .make/context/$1
	@mkdir -p $$(@D); touch $$@
IMAGE_INPUTS.$1 = $$(call IMAGE_DIGEST,$1)
endef
$(foreach i,$(IMAGES),$(eval $(call image-rules,$i)))
