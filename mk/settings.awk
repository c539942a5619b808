# Which names of `given` no makefile reads, each as NAME,NEAREST (NEAREST is empty where nothing is like it); with list=1 all settings.
# A setting is a name that a makefile gives a default (NAME ?= ...) or asks for by `given` or `setting`; NAME.$(...) is a family,
# such as WEIGHTS_URL.<file>. So the list of them is what the makefiles are, and no second one.
BEGIN { own = "^(MAKE.*|GNUMAKEFLAGS|SHELL)$" }
/^[ \t]*#/ { next }
match($0, /^[ \t]*(export[ \t]+)?[A-Za-z_][A-Za-z0-9_.]*[ \t]*\?=/) {
  name = substr($0, RSTART, RLENGTH); gsub(/export[ \t]|[ \t]|\?=/, "", name); know(name)
}
# In mk/vars.mk a name that starts empty is one that the command line alone sets.
FILENAME ~ /vars\.mk$/ && /^[A-Z_]+ :=$/ { know($1) }
{
  rest = $0
  while (match(rest, /call (given|setting),[A-Za-z_][A-Za-z0-9_.]*/)) {
    name = substr(rest, RSTART, RLENGTH); sub(/.*,/, "", name); rest = substr(rest, RSTART + RLENGTH)
    if (name !~ /\.$/) know(name)
  }
  rest = $0
  while (match(rest, /[A-Z][A-Z0-9_]*\.\$/)) { family[substr(rest, RSTART, RLENGTH - 1)]; rest = substr(rest, RSTART + RLENGTH) }
  if (match($0, /^DEFAULT\.[A-Z_]+/)) family[substr($0, 9, RLENGTH - 8) "."]
  if ($1 == "HANDED_ON") for (i = 3; i <= NF; i++) know($i)
}
# In their order in the files: of two that are as near, the first is meant.
# A family whose members have defaults (MAX_ITERS.1 ?= ...) has no others.
function know(name) {
  if (name in known) return
  known[name]; order[++total] = name
  if (index(name, ".")) closed[substr(name, 1, index(name, "."))]
}
function least(a, b) { return a < b ? a : b }
# Edits (one letter more, less, other, or two swapped) that make one word the other, whatever their case
function edits(a, b,    i, j, d, same) {
  a = toupper(a); b = toupper(b)
  for (i = 0; i <= length(a); i++) d[i, 0] = i
  for (j = 0; j <= length(b); j++) d[0, j] = j
  for (i = 1; i <= length(a); i++)
    for (j = 1; j <= length(b); j++) {
      same = substr(a, i, 1) == substr(b, j, 1)
      d[i, j] = least(least(d[i - 1, j], d[i, j - 1]) + 1, d[i - 1, j - 1] + !same)
      if (i > 1 && j > 1 && substr(a, i, 1) == substr(b, j - 1, 1) && substr(a, i - 1, 1) == substr(b, j, 1))
        d[i, j] = least(d[i, j], d[i - 2, j - 2] + 1)
    }
  return d[length(a), length(b)]
}
# Whether all words of one name (VAL_SCENES) stand in the other (SYNTH_VAL_SCENES)
function within(a, b) { return length(a) > 3 && (index("_" b "_", "_" a "_") > 0) }
function consider(word, candidate, result,    n) {
  n = edits(word, candidate)
  if (n > least(3, int((length(word) + 1) / 3)) && n > 1) n = within(toupper(word), candidate) ? 3 : 99
  if (n < best) { best = n; nearest = result }
}
END {
  if (list) { for (k = 1; k <= total; k++) print order[k]; exit }
  count = split(given, names, " ")
  for (i = 1; i <= count; i++) {
    name = names[i]; dot = index(name, "."); head = dot ? substr(name, 1, dot) : ""; tail = dot ? substr(name, dot + 1) : ""
    if (name in known || name ~ own || (dot && tail != "" && head in family && !(head in closed))) continue
    best = 99; nearest = ""
    for (k = 1; k <= total; k++) consider(name, order[k], order[k])
    if (dot) for (k in family) if (!(k in closed)) consider(head, k, k tail)
    print name "," nearest
  }
}
