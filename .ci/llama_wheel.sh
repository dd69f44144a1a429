# Compiling llama.cpp takes minutes, so the built wheel is kept outside the checkout, keyed by version, Python and CPU:
# it is compiled with -march=native and dies with SIGILL on another processor.

llama_wheel_folder() {
  local version cpu folder
  version=$(sed -n 's/.*"llama-cpp-python==\([0-9.]*\)".*/\1/p' pyproject.toml)
  cpu=$( (uname -m; sed -n '/^model name/p;/^flags/p;/^Features/p' /proc/cpuinfo 2>/dev/null | sort -u
          sysctl -n machdep.cpu.brand_string 2>/dev/null) | sha256sum | cut -c1-16)
  folder=${EDGEKIT_WHEEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/edgekit-ci}/llama-cpp-python-$version-$cpu
  if ! ls "$folder"/*.whl >/dev/null 2>&1; then
    echo "building llama-cpp-python $version for this processor" >&2
    mkdir -p "$folder"
    python3 -m pip wheel -q --no-cache-dir --no-deps --no-binary llama-cpp-python \
      --wheel-dir "$folder.partial" "llama-cpp-python==$version" >&2
    mv "$folder.partial"/*.whl "$folder"/
  fi
  echo "$folder"
}
