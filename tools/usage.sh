# shellcheck shell=bash
# Every script sources this first: -h and --help print the comment at its head, and too few arguments are one line.
#   . "$(dirname "${BASH_SOURCE[0]}")/usage.sh"; usage 3 "$@"      at least three arguments
usage() {
  local least=$1
  shift
  if [[ ${1-} == -h || ${1-} == --help ]]; then
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit 0
  fi
  if (( $# < least )); then
    echo "error: ${0##*/} needs at least $least argument$( ((least == 1)) || echo s), $# given: $0 --help" >&2
    exit 2
  fi
}

# The interpreter of this tree, in $python, with this tree's package and nothing else on PYTHONPATH (a sourced ROS).
tree_python() {
  local tools
  tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  python=${PYTHON:-$(python3 "$tools/_environment.py")} || exit 2
  export PYTHONPATH=${tools%/*}/projects
}
