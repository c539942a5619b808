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

# $(call subset,NAME,choices): stops when a word of the variable's value is not one of them.
subset = $(if $(filter-out $2,$(or $($1),nothing)),$(error $1=$($1) is unknown: choose among $(subst $(space),$(comma) ,$(strip $2))))

# $(call whole,NAME), $(call positive,NAME): stops when the variable's value is no whole number, or less than 1.
# A leading zero is none: the shell takes 010 for 8.
digits-gone = $(subst 9,,$(subst 8,,$(subst 7,,$(subst 6,,$(subst 5,,$(subst 4,,$(subst 3,,$(subst 2,,$(subst 1,,$(subst 0,,$1))))))))))
is-whole = $(if $(filter-out 1,$(words $1))$(call digits-gone,$1)$(filter-out 0,$(filter 0%,$1)),,1)
whole = $(if $(call is-whole,$($1)),,$(error $1=$($1) is no whole number: give 0 or more))
positive = $(if $(call is-whole,$(filter-out 0,$($1))),,$(error $1=$($1) is no whole number above 0: give 1 or more))
# $(call flag,NAME): stops when the variable says neither yes (1) nor no (0 or nothing).
flag = $(if $($1),$(call one-of,$1,0 1))
# $(call at-least,NAME,N), $(call at-most,NAME,N): stop when the whole number lies beyond N.
below = $(shell (( $1 < $2 )) && echo 1)
at-least = $(call whole,$1)$(if $(call below,$($1),$2),$(error $1=$($1) is too small: give $2 or more))
at-most = $(call whole,$1)$(if $(call below,$2,$($1)),$(error $1=$($1) is too large: give $2 or less))
# $(call numbers,NAME): stops when the variable holds anything but numbers such as 8.6, between commas.
numbers = $(if $(call digits-gone,$(subst .,,$(subst $(comma),,$($1)))),$(error $1=$($1) is unknown: give numbers$(comma) such as 8.6 or 8.6$(comma)8.9))
# $(call amount,NAME): stops when the variable is no number above 0.
amount = $(if $(filter-out 1,$(words $($1)))$(call digits-gone,$(subst .,,$($1)))$(if $(subst 0,,$(subst .,,$($1))),,0),$(error $1=$($1) is no number above 0: give one such as 4 or 0.5))
# $(call some-of,NAME,choices): stops when one of the words between commas is not among them.
some-of = $(foreach w,$(or $(subst $(comma), ,$($1)),nothing),$(if $(filter $2,$w),,$(error $1=$($1) names $w: choose among $(subst $(space),$(comma) ,$(strip $2)), with commas between)))

# $(call path,NAME): stops at what make itself cannot hold in a file name.
path = $(call path-is,$1,$($1))
path-is = $(if $(filter-out 1,$(words $2))$(findstring :,$2)$(findstring %,$2)$(findstring $$,$2),$(error $1=$2 cannot be used: a path may hold no blank, colon, percent or dollar sign: name a link to it (ln -s) instead))

# $(call file-there,NAME): stops where a file that somebody named is not there, or is none; make itself would miss a rule for it, and
# a tool would wait for a pipe.
file-there = $(if $($1),$(call path,$1)$(if $(wildcard $($1)),$(if $(wildcard $($1)/.),$(error $1=$($1) is a folder: name the file),$(call file-is,$1)),$(error $1=$($1) is not there)))
file-is = $(if $(shell test -f $(call q,$($1)) && echo 1),,$(error $1=$($1) is no file$(comma) but $(if $(shell test -L $(call q,$($1)) && echo 1),a link that leads to none,a pipe or a device): name the file))

# "command line", "environment", ... of a variable, or nothing where it has only our default.
given = $(filter-out file default undefined,$(origin $1))

# Two makes do not write to one place at once. The lock is the recipe's shell's: what follows in the same recipe line runs under it,
# and it is gone when that has ended, however it did.
# $(call hold,FILE,what is done): stops where another make has it, and says who
hold = $(call lock,$1,$2)
# $(call hold-or-wait,FILE,what is done,product): waits for it; the recipe is done where the other one made the product
STARTED := $(shell echo $${EPOCHREALTIME:-$$(( $$(date +%s) + 1 ))})
hold-or-wait = $(call lock,$1,$2) --wait $(call q,$3) --since $(STARTED) || exit $$(( $$? == 3 ? 0 : $$? ))
# Joins two lines of a recipe that a define holds
continued = && \$(empty)$(newline)
lock = mkdir -p $(call q,$(dir $1)) && exec 8>> $(call q,$1) && $(CONFIGURED_PYTHON) mk/lib/hold.py 8 $(call q,$1) --holder $$PPID --what $(call q,$2)

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
