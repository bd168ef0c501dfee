# Builds and runs outside/ in an empty folder SCRATCH, in one WAY: find_package, add_subdirectory or include. With CUDA, its calls of
# kernels are compiled as well, and not the kernels.

cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

set(outside "${CMAKE_CURRENT_LIST_DIR}/outside")
file(REMOVE_RECURSE "${SCRATCH}")
file(MAKE_DIRECTORY "${SCRATCH}")

if(WAY STREQUAL "include")
  run("${COMPILER}" -std=c++20 -I "${SOURCE}/include" "${outside}/main.cpp" -o "${SCRATCH}/outside")
  run("${SCRATCH}/outside")
  return()
endif()

if(WAY STREQUAL "find_package")
  run(${CMAKE_COMMAND} --install "${BUILD}" --prefix "${SCRATCH}/prefix")
  set(library "-DCMAKE_PREFIX_PATH=${SCRATCH}/prefix")
else()
  set(library "-DBLACKMAMBA_SOURCE=${SOURCE}")
endif()
run(${CMAKE_COMMAND} -S "${outside}" -B "${SCRATCH}/build" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}"
    "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}" "-DCMAKE_CUDA_COMPILER=${CUDA}" "-DOUTSIDE_CUDA=${CUDA}" "${library}")
if(CUDA)
  run(${CMAKE_COMMAND} --build "${SCRATCH}/build" --target calls)
  return()
endif()
run(${CMAKE_COMMAND} --build "${SCRATCH}/build")
if(WAY STREQUAL "find_package")
  # The package that was found is the one just installed.
  file(STRINGS "${SCRATCH}/build/CMakeCache.txt" found REGEX "^blackmamba_DIR:")
  if(NOT found MATCHES "${SCRATCH}/prefix")
    message(FATAL_ERROR "another installation was found: ${found}")
  endif()
elseif(EXISTS "${SCRATCH}/build/blackmamba/tests")
  message(FATAL_ERROR "as a subdirectory, the library built its own tests")
endif()
run("${SCRATCH}/build/outside")
