# The images as one graph, for docker buildx: `make images` lays out the contexts and bakes. `make image` builds one of them with
# any container engine; tests/contract/test_bake.py holds both to the same Dockerfiles, names and arguments.
#
# Contexts: `make contexts` writes them to .make/context (mk/lib/stage_context.sh). Empty: what the Dockerfile says.

variable "TORCH112_BASE" { default = "" }
variable "DEPLOY_BASE" { default = "" }
variable "JETSON_BASE" { default = "" }
variable "TORCH112_DIGEST" { default = "" }
variable "DEPLOY_DIGEST" { default = "" }
variable "JETSON_DIGEST" { default = "" }
variable "TORCH112_INDEX_URL" { default = "" }
variable "DEPLOY_INDEX_URL" { default = "" }
variable "JETSON_INDEX_URL" { default = "" }
variable "PIP_INDEX_URL" { default = "" }
variable "PIP_TRUSTED_HOST" { default = "" }
variable "APT_MIRROR" { default = "" }
variable "REVISION" { default = "" }
# "registry.example/team/" to push there: `docker buildx bake --push`
variable "REGISTRY" { default = "" }

group "default" {
  targets = ["torch1_12", "deploy", "jetson"]
}

# What is set, "none" as an empty value. Written without null, which buildx before 0.10 refuses.
function "given" {
  params = [values]
  result = { for name, value in values : name => value == "none" ? "" : value if value != "" }
}

target "common" {
  args = given({
    PIP_INDEX_URL    = PIP_INDEX_URL
    PIP_TRUSTED_HOST = PIP_TRUSTED_HOST
    APT_MIRROR       = APT_MIRROR
  })
  labels = given({
    "org.opencontainers.image.revision" = REVISION
  })
}

# Upstream's stack: CUDA 11.6 has no arm64
target "torch1_12" {
  inherits  = ["common"]
  context   = ".make/context/torch1.12"
  tags      = ["${REGISTRY}uniad_torch1.12"]
  platforms = ["linux/amd64"]
  args = given({
    BASE_IMAGE      = TORCH112_BASE
    BASE_DIGEST     = TORCH112_DIGEST
    TORCH_INDEX_URL = TORCH112_INDEX_URL
  })
}

target "deploy" {
  inherits  = ["common"]
  context   = ".make/context/deploy"
  tags      = ["${REGISTRY}uniad_deploy"]
  platforms = ["linux/amd64"]
  args = given({
    BASE_IMAGE      = DEPLOY_BASE
    BASE_DIGEST     = DEPLOY_DIGEST
    TORCH_INDEX_URL = DEPLOY_INDEX_URL
  })
}

target "jetson" {
  inherits  = ["common"]
  context   = ".make/context/jetson"
  tags      = ["${REGISTRY}uniad_jetson"]
  platforms = ["linux/arm64"]
  args = given({
    BASE_IMAGE      = JETSON_BASE
    BASE_DIGEST     = JETSON_DIGEST
    TORCH_INDEX_URL = JETSON_INDEX_URL
  })
}
