# What a setting may hold. Its value reaches shells, file names and make itself, so a character that one of them acts on is refused
# here, before anything is expanded or run: `value` gives the text as it was typed.
dollar := $$
hash := \#
commands := ` ' " \ ; & | < > ( ) $(dollar) $(hash)
patterns := { } [ ] * ? ! ~

# Settings of several words, such as options of a tool: a shell splits them, and may fill in file names
LISTS := %_ARGS %_FLAGS TESTS DEMO_ITERS% ROBUST SEVERITIES
# Settings that every use quotes, and that need more characters: config values, addresses, files outside of the tree
QUOTED := JOB_STORAGE JOB_IMAGE CFG_OPTIONS BUILD_ARGS KEEP_FP32 %_URL WEIGHTS_URL.% WEIGHTS_DIR APT_MIRROR PIP_CERT CA_CERTS PIP_FIND_LINKS WHEELS \
  JETSON_SSH_FLAGS JETSON_DIR TIMING_CACHE
# Never expanded: other programs read them from the environment
NOT_OURS := http_proxy https_proxy no_proxy MAKE% SHELL

SETTINGS := $(shell awk -v list=1 -f mk/settings.awk Makefile mk/*.mk)
SET := $(foreach v,$(filter-out $(NOT_OURS),$(.VARIABLES)),$(if $(filter command,$(firstword $(origin $v))),$v,$(if $(filter environment,$(firstword $(origin $v))),$(filter $v,$(SETTINGS)))))

# $(call holds,text,characters): those of the characters that the text holds
holds = $(strip $(foreach c,$2,$(findstring $c,$1))$(if $(findstring $(newline),$1), a line break))
# $(call acceptable,NAME,raw value): stops at what this setting cannot hold.
refuse = $(error $1=$(subst $(newline), ,$2): $1 cannot hold $3, which a shell or make would act on$(if $4,; $4))
check-quoted = $(if $(call holds,$2,$(dollar)),$(call refuse,$1,$2,$(call holds,$2,$(dollar))))
check-list = $(if $(call holds,$2,$(commands)),$(call refuse,$1,$2,$(call holds,$2,$(commands)),it is a list of words))
# A blank before or after, as a quotation mark too far away leaves it, would make another value of a choice or of a name.
hanging = $(if $(strip $1),$(filter x,$(firstword x$1) $(lastword $1x)))
check-word = $(if $(call holds,$2,$(commands) $(patterns)),$(call refuse,$1,$2,$(call holds,$2,$(commands) $(patterns))))$(if $(call hanging,$2),$(error $1='$2' begins or ends with a blank: take it away))
# A tool takes a word that begins with a dash for one of its options, however well it is quoted: CFG_OPTIONS=--help would print help and
# be done. A number below 0 is refused where numbers are, and JETSON by what knows user@host.
like-option = $(strip $(foreach w,$(filter -%,$1),$(if $(call digits-gone,$(subst .,,$(w:-%=%))),$w)))
check-no-option = $(if $(call like-option,$2),$(error $1=$2: $(firstword $(call like-option,$2)) would be taken for an option: write a path as ./$(firstword $(call like-option,$2))))
acceptable = $(if $(filter $(QUOTED),$1),$(call check-quoted,$1,$2),$(if $(filter $(LISTS),$1),$(call check-list,$1,$2),$(call check-word,$1,$2)))$(if $(filter $(LISTS) JETSON JETSON_SSH_FLAGS,$1),,$(call check-no-option,$1,$2))
$(foreach v,$(SET),$(call acceptable,$v,$(value $v)))
