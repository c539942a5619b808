##@ Containers

# --- engine -------------------------------------------------------------------------------------------------------------
ENGINE_CLI := $(if $(filter host,$(RUNTIME)),docker,$(RUNTIME))
# A terminal is handed on where there is one.
$(if $(filter host,$(RUNTIME)),,$(call path,CURDIR)$(call check-word,CURDIR,$(CURDIR)))
TTY := $(shell [ -t 0 ] && [ -t 2 ] && echo -it)
UID := $(shell id -u)
GID := $(shell id -g)
# What it is, in words (mk/lib/engine_facts.sh): asked once, when a container is to run.
ENGINE_FACTS = $(eval ENGINE_FACTS := $(shell mk/lib/engine_facts.sh $(ENGINE_CLI)))$(ENGINE_FACTS)
ENGINE_KIND = $(firstword $(ENGINE_FACTS))
GPU_FLAGS.docker := --gpus all
GPU_FLAGS.podman := --device nvidia.com/gpu=all
# Files are the caller's. Rootless docker shows the caller as root inside, and rootless podman does unless told otherwise.
USER_FLAGS.docker = --user $(if $(filter rootless,$(ENGINE_FACTS)),0:0,$(UID):$(GID))
USER_FLAGS.podman = --user $(UID):$(GID)$(if $(filter-out 0,$(UID)), --userns=keep-id)
GPU_FLAGS = $(if $(filter-out 0,$(GPUS)),$(GPU_FLAGS.$(ENGINE_KIND)))
USER_FLAGS = $(USER_FLAGS.$(ENGINE_KIND))
# Where SELinux guards containers, mounted folders keep their labels: a data set is not relabelled for us.
LABEL_FLAGS = $(if $(filter selinux,$(ENGINE_FACTS)), --security-opt label=disable)
# /dev/shm of every container. Unless said: the variant's row
SHM_SIZE ?= $(SHM.$(VARIANT))
$(if $(call digits-gone,$(patsubst %b,%,$(patsubst %k,%,$(patsubst %m,%,$(patsubst %g,%,$(SHM_SIZE)))))),$(error SHM_SIZE=$(SHM_SIZE) is no size: give one such as 8g or 512m))
# Several machines talk to each other from the hosts' addresses.
NET_FLAGS := $(if $(filter-out 1,$(NNODES)),--network host)
can-reach = $(if $(and $(NET_FLAGS),$(filter rootless,$(ENGINE_FACTS)),$(filter docker,$(ENGINE_KIND))),$(error NNODES=$(NNODES): rootless docker has no host network to give to containers: RUNTIME=podman, or docker as a system service))

# Paths for --volume may hold blanks: make's lists of mounts carry them in another form until they are quoted.
BLANK := <blank>
# $(call place,path): where it lies on the host
place = $(subst $(space),$(BLANK),$(call no-colon,$(or $(realpath $1),$(abspath $1))))
no-colon = $(if $(findstring :,$1),$(error $1 cannot be mounted: a container engine takes no colon in a path: rename it, or mount it elsewhere (mount --bind)),$1)

# $(call in-container,image,needs of /dev/shm,mounts,folder inside,more): the start of a command line
in-container = $(can-reach)mk/lib/in_container.sh $(IMAGE_TAG.$1) $(ENGINE_CLI) run --rm --init$(if $(TTY), $(TTY))$(if $(GPU_FLAGS), $(GPU_FLAGS)) --shm-size=$(SHM_SIZE)$(if $2, --env NEED_SHM_GIB=$2) \
  --env TINI_KILL_PROCESS_GROUP=1 $(USER_FLAGS)$(LABEL_FLAGS)$(if $(NET_FLAGS), $(NET_FLAGS))$(foreach m,$3, --volume $(call q,$(subst $(BLANK),$(space),$m))) --workdir $4$(if $5, $5)$(if $(DOCKER_FLAGS), $(DOCKER_FLAGS)) $(IMAGE_TAG.$1)

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
DIGEST.torch1.12 := $(TORCH112_DIGEST)
DIGEST.deploy := $(DEPLOY_DIGEST)
DIGEST.jetson := $(JETSON_DIGEST)
TORCH_INDEX.torch1.12 := $(TORCH112_INDEX_URL)
TORCH_INDEX.deploy := $(DEPLOY_INDEX_URL)
TORCH_INDEX.jetson := $(JETSON_INDEX_URL)
FLAGS.torch1.12 :=
FLAGS.deploy :=
FLAGS.jetson := --platform linux/arm64

# Proxies reach the build under the names that the container engine itself lets through without writing them into the image.
PROXIES := $(foreach v,http_proxy https_proxy no_proxy,$(if $(value $v),$v))
arg = $(if $2,--build-arg $(call q,$1=$2))
# "none" is an empty address: PIP_INDEX_URL's
index-arg = $(if $1,--build-arg TORCH_INDEX_URL=$(if $(filter-out none,$1),$(call q,$1)))
# What the content of an image follows from; where packages come from is not part of it.
IMAGE_FILES = $(sort $(wildcard docker/$1/*)) $(sort $(wildcard docker/setup/*))
IMAGE_DIGEST = $(shell { cat $(call IMAGE_FILES,$1); echo $(call q,$(BASE.$1) $(TORCH_INDEX.$1) $(BUILD_ARGS)); } | git hash-object --stdin)
IMAGE_THERE = $(shell $(ENGINE_CLI) image inspect --format '{{index .Config.Labels "uniad.inputs"}}' $(IMAGE_TAG.$1) 2>/dev/null)

digest-check = $(if $($1),$(if $(shell [[ $(call q,$($1)) =~ ^sha256:[0-9a-f]{64}$$ ]] || echo bad),$(error $1=$($1) is no digest: give sha256: and 64 hexadecimal digits, as `docker image inspect --format '{{.RepoDigests}}' IMAGE` prints them)))
$(foreach v,TORCH112_DIGEST DEPLOY_DIGEST JETSON_DIGEST,$(call digest-check,$v))

# Downloads and compiled wheels stay in the builder's cache where it has one (BuildKit, podman 4); else the same without.
BUILDER = $(if $(filter docker,$(ENGINE_KIND)),DOCKER_BUILDKIT=$(if $(filter cache-mounts,$(ENGINE_FACTS)),1,0) )$(ENGINE_CLI) build
REVISION = $(shell git describe --always --abbrev=40 --dirty --exclude '*' 2>/dev/null)

.PHONY: image
image: .make/image/$(IMAGE) ## Build the container image of this STACK (IMAGE=torch1.12, deploy or jetson for another)

define image-rules
.make/image/$1: .make/var/IMAGE_INPUTS.$1 $$$$(if $$$$(filter $$$$(IMAGE_INPUTS.$1),$$$$(call IMAGE_THERE,$1)),,FORCE)
	mk/lib/stage_context.sh$$(if $$(filter cache-mounts,$$(ENGINE_FACTS)),, --no-cache-mounts) docker/$1 .make/context/$1 $$(call q,$$(CA_CERTS)) $$(call qs,$$(WHEELS))
	$$(BUILDER) --tag $(IMAGE_TAG.$1) --label uniad.inputs=$$(IMAGE_INPUTS.$1) $$(REVISION:%=--label org.opencontainers.image.revision=%) $$(FLAGS.$1) $$(call arg,BASE_IMAGE,$$(BASE.$1)) $$(call arg,BASE_DIGEST,$$(DIGEST.$1)) $$(call index-arg,$$(TORCH_INDEX.$1)) \
	  $$(call arg,PIP_INDEX_URL,$$(PIP_INDEX_URL)) $$(call arg,PIP_TRUSTED_HOST,$$(PIP_TRUSTED_HOST)) $$(call arg,APT_MIRROR,$$(APT_MIRROR)) $$(PROXIES:%=--build-arg %) $$(foreach a,$$(BUILD_ARGS),--build-arg $$(call q,$$a)) $$(BUILD_FLAGS) .make/context/$1
	@mkdir -p $$(@D); touch $$@
IMAGE_INPUTS.$1 = $$(call IMAGE_DIGEST,$1)
endef
$(foreach i,$(IMAGES),$(eval $(call image-rules,$i)))

# All of them as one graph (docker-bake.hcl), for a builder that has BuildKit's bake: `docker buildx`
$(call subset,IMAGES_OF,$(IMAGES))
BAKED := TORCH112_BASE DEPLOY_BASE JETSON_BASE TORCH112_DIGEST DEPLOY_DIGEST JETSON_DIGEST TORCH112_INDEX_URL DEPLOY_INDEX_URL JETSON_INDEX_URL \
  PIP_INDEX_URL PIP_TRUSTED_HOST APT_MIRROR
BAKE_TARGET = $(subst .,_,$i)
.PHONY: contexts images
contexts: ## Lay out what the builds of all images see, in .make/context
	@$(foreach i,$(IMAGES_OF),mk/lib/stage_context.sh docker/$i .make/context/$i $(call q,$(CA_CERTS)) $(call qs,$(WHEELS)) &&) true
images: contexts $(foreach i,$(IMAGES_OF),.make/var/IMAGE_INPUTS.$i) ## Build the images as one graph with docker buildx bake (IMAGES_OF: some of them)
	@docker buildx version > /dev/null 2>&1 || { echo 'error: docker buildx is not installed (docs.docker.com/build): `make image IMAGE=deploy` builds one image with any container engine' >&2; exit 2; }
	$(foreach v,$(BAKED),$(if $($v),$v=$(call q,$($v)) ))REVISION=$(REVISION) docker buildx bake --load $(foreach i,$(IMAGES_OF),--set $(BAKE_TARGET).labels.uniad.inputs=$(IMAGE_INPUTS.$i)) \
	  $(foreach a,$(PROXIES) $(BUILD_ARGS),--set $(call q,*.args.$a)) $(BUILD_FLAGS) $(foreach i,$(IMAGES_OF),$(BAKE_TARGET))
	@mkdir -p .make/image; touch $(IMAGES_OF:%=.make/image/%)
