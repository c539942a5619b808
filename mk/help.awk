# "##@ Group" starts a group; "target: ... ## text" is a line of it. Groups of the same name are joined.
BEGIN { FS = ":.*## " }
/^##@ / { group = substr($0, 5); if (!(group in seen)) { seen[group] = ++groups; name[groups] = group } next }
/^[a-zA-Z0-9_.-]+:.*## / { lines[seen[group]] = lines[seen[group]] sprintf("  %-14s %s\n", $1, $2) }
END { for (i = 1; i <= groups; i++) printf "\n%s\n%s", name[i], lines[i] }
