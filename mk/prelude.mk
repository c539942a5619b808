# Tools that every other file uses. No recipes that make products.

# Text for the shell: one word, whatever it holds.
q = '$(subst ','\'',$1)'
# A list for the shell: each word quoted.
qs = $(foreach w,$1,$(call q,$w))

empty :=
space := $(empty) $(empty)
comma := ,
define newline


endef

# $(call one-of,NAME,choices): stops when the variable's value is not one of them.
one-of = $(if $(filter-out 1,$(words $($1)))$(filter-out $2,$($1)),$(error $1=$($1) is unknown: choose $(subst $(space),$(comma) ,$(strip $2))))

# $(call whole,NAME): stops when the variable's value is not a whole number.
digits-gone = $(subst 9,,$(subst 8,,$(subst 7,,$(subst 6,,$(subst 5,,$(subst 4,,$(subst 3,,$(subst 2,,$(subst 1,,$(subst 0,,$1))))))))))
whole = $(if $(filter-out 1,$(words $($1)))$(call digits-gone,$($1)),$(error $1=$($1) is no whole number))

# $(call path,NAME): stops at what make itself cannot hold in a file name.
path = $(call path-is,$1,$($1))
path-is = $(if $(filter-out 1,$(words $2))$(findstring :,$2)$(findstring %,$2)$(findstring $$,$2),$(error $1=$2 cannot be used: a path may hold no blank, colon, percent or dollar sign: name a link to it (ln -s) instead))

# "command line", "environment", ... of a variable, or nothing where it has only our default.
given = $(filter-out file default undefined,$(origin $1))

# A file that holds a variable's value, rewritten only when the value changed: what is made with the value depends on it.
# Whether it changed is known without running anything, so `make -n` tells the truth.
same = $(if $(subst x$1,,x$2)$(subst x$2,,x$1),,1)
changed = $(if $(call same,$(shell cat .make/var/$1 2>/dev/null),$(strip $($1))),,FORCE)
.SECONDEXPANSION:
.make/var/%: $$(call changed,$$*)
	@mkdir -p $(@D); printf '%s\n' $(call q,$(strip $($*))) > $@
.PRECIOUS: .make/var/%
.PHONY: FORCE
FORCE:
