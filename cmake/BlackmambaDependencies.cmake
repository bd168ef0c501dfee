# What we build on. Found first; downloaded, at pinned versions, only if missing and asked for with BLACKMAMBA_FETCH.

set(blackmamba_dependencies Eigen3 OpenMP nlohmann_json doctest benchmark CLI11 fmt)
set(blackmamba_debian_Eigen3 libeigen3-dev)
set(blackmamba_debian_nlohmann_json nlohmann-json3-dev)
set(blackmamba_debian_doctest doctest-dev)
set(blackmamba_debian_benchmark libbenchmark-dev)
set(blackmamba_debian_CLI11 libcli11-dev)
set(blackmamba_debian_fmt libfmt-dev)

# blackmamba_look_for(name...): finds what is there, and says nothing about what is not.
macro(blackmamba_look_for)
  foreach(name ${ARGN})
    find_package(${name} QUIET)
  endforeach()
endmacro()

# blackmamba_require(name...): finds each, or downloads it if that was asked for, or stops with the name of what to install.
macro(blackmamba_require)
  foreach(name ${ARGN})
    find_package(${name} QUIET)
    if(NOT ${name}_FOUND)
      message(FATAL_ERROR "${name} is not installed (Debian: apt-get install ${blackmamba_debian_${name}}). "
                          "Install it, or configure with -DBLACKMAMBA_FETCH=ON to download it.")
    endif()
  endforeach()
endmacro()
