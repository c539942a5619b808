# A value that nobody reads would change nothing without a word. Every name on the command line must be a setting that some
# makefile reads; mk/settings.awk finds out which those are, and what a misspelt one is like.
ON_COMMAND_LINE := $(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$v))
UNREAD := $(if $(ON_COMMAND_LINE),$(shell awk -v given=$(call q,$(ON_COMMAND_LINE)) -f mk/settings.awk Makefile $(wildcard mk/*.mk *.mk)))
with-nearest = $(firstword $1)$(if $(word 2,$1), (did you mean $(word 2,$1)?))
ifneq (,$(UNREAD))
$(error no such setting: $(subst $(newline) ,$(comma) ,$(foreach u,$(UNREAD),$(call with-nearest,$(subst $(comma), ,$u))$(if $(call same,$u,$(lastword $(UNREAD))),,$(newline)))); mk/vars.mk has them all)
endif
