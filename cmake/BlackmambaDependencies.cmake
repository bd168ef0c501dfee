# What we build on: found first. Downloaded, at the versions that Debian 12 has, only if missing and asked for with
# BLACKMAMBA_FETCH; a configure step that downloads unasked breaks every build that is offline.

include(FetchContent)

# The Debian package of each, and the archive: address, SHA-256, and where below it the headers are.
set(blackmamba_Eigen3_debian libeigen3-dev)
set(blackmamba_Eigen3_archive https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.bz2
                              b4c198460eba6f28d34894e3a5710998818515104d6e74e5cc331ce31e46e626 .)
set(blackmamba_nlohmann_json_debian nlohmann-json3-dev)
set(blackmamba_nlohmann_json_archive https://github.com/nlohmann/json/releases/download/v3.11.2/json.tar.xz
                                     8c4b26bf4b422252e13f332bc5e388ec0ab5c3443d24399acb675e68278d341f include)
set(blackmamba_doctest_debian doctest-dev)
set(blackmamba_doctest_archive https://github.com/doctest/doctest/archive/v2.4.9.tar.gz
                               19b2df757f2f3703a5e63cee553d85596875f06d91a3333acd80a969ef210856 .)
set(blackmamba_CLI11_debian libcli11-dev)
set(blackmamba_CLI11_archive https://github.com/CLIUtils/CLI11/archive/v2.1.2.tar.gz
                             26291377e892ba0e5b4972cdfd4a2ab3bf53af8dac1f4ea8fe0d1376b625c8cb include)
set(blackmamba_fmt_debian libfmt-dev)
set(blackmamba_fmt_archive https://github.com/fmtlib/fmt/archive/9.1.0.tar.gz
                           5dea48d1fcddc3ec571ce2058e13910a0d4a6bab4cc09a809d8b1dd1c88ae6f2 include)
set(blackmamba_benchmark_debian libbenchmark-dev)
set(blackmamba_benchmark_archive https://github.com/google/benchmark/archive/refs/tags/v1.7.1.tar.gz
                                 6430e4092653380d9dc4ccb45a1e2dc9259d581f4866dc0759713126056bc1d7 BUILD)

# blackmamba_look_for(NAME...): finds what is there, and says nothing about what is not.
macro(blackmamba_look_for)
  foreach(name IN ITEMS ${ARGN})
    find_package(${name} QUIET)
  endforeach()
endmacro()

# blackmamba_require(NAME...): finds each, or downloads it if that was asked for, or stops with what to install.
macro(blackmamba_require)
  foreach(name IN ITEMS ${ARGN})
    find_package(${name} QUIET)
    if(${name}_FOUND)
      continue()
    endif()
    if(NOT BLACKMAMBA_FETCH)
      message(FATAL_ERROR "${name} is not installed. On Debian: apt-get install ${blackmamba_${name}_debian}. "
                          "Or configure with -DBLACKMAMBA_FETCH=ON to download it.")
    endif()
    blackmamba_fetch(${name})
  endforeach()
endmacro()

# blackmamba_fetch(NAME): headers alone are all that is taken from an archive, so that its build files cannot change ours;
# only Google Benchmark has to be built.
function(blackmamba_fetch name)
  list(GET blackmamba_${name}_archive 0 url)
  list(GET blackmamba_${name}_archive 1 sha256)
  list(GET blackmamba_${name}_archive 2 headers)
  if(headers STREQUAL "BUILD")
    set(subfolder)
    set(BENCHMARK_ENABLE_TESTING OFF)
    set(BENCHMARK_ENABLE_INSTALL OFF)
    set(BENCHMARK_ENABLE_WERROR OFF)
    set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)
  else()
    set(subfolder SOURCE_SUBDIR no-build-files-of-its-own)
  endif()
  FetchContent_Declare(${name} URL "${url}" URL_HASH SHA256=${sha256} DOWNLOAD_EXTRACT_TIMESTAMP OFF ${subfolder})
  message(STATUS "Downloading ${name} from ${url}")
  FetchContent_MakeAvailable(${name})
  if(headers STREQUAL "BUILD")
    return()
  endif()
  set(target ${name}::${name})
  if(name STREQUAL "Eigen3")
    set(target Eigen3::Eigen)
  endif()
  string(TOLOWER ${name} lower)
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} INTERFACE "${${lower}_SOURCE_DIR}/${headers}")
  if(name STREQUAL "fmt")
    target_compile_definitions(${target} INTERFACE FMT_HEADER_ONLY=1)
  endif()
endfunction()
