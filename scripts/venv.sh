# Sourced by the scripts beside it: finds a Python, makes a virtual environment, installs dduomq into it.

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 or newer with venv is needed; install it (on Debian: apt install python3-venv)," >&2
    echo "       or name it: PYTHON=/path/to/python $0" >&2
    exit 2
}

# make_venv DIR REQUIREMENT...: an environment with an editable install, made anew only when pyproject.toml changed.
make_venv() {
    local directory=$1 stamp
    shift
    stamp="$directory/.installed-$(echo "$*" | cat - pyproject.toml | cksum | cut -d' ' -f1)"
    [ -e "$stamp" ] && return
    local python
    python=$(find_python)
    echo "== installing into $directory"
    [ -x "$directory/bin/python" ] || "$python" -m venv "$directory"
    local args=()
    for requirement in "$@"; do args+=(-e "$requirement"); done
    "$directory/bin/pip" install --quiet --disable-pip-version-check "${args[@]}"
    rm -f "$directory"/.installed-*
    touch "$stamp"
}
