# blackmamba::precompiled: the kernels of every operation, for every scalar, compiled once, so that whoever uses them compiles
# calls. Each operation's folder is a source file of its own. Architectures are those of CMAKE_CUDA_ARCHITECTURES.

# blackmamba_add_precompiled(INCLUDE): makes the target from the headers below INCLUDE. Needs the language CUDA.
function(blackmamba_add_precompiled include)
  find_package(CUDAToolkit REQUIRED)
  set(sources)
  file(GLOB folders LIST_DIRECTORIES ON "${include}/blackmamba/ops/*")
  foreach(folder IN LISTS folders)
    cmake_path(GET folder FILENAME op)
    file(GLOB headers RELATIVE "${include}" CONFIGURE_DEPENDS "${folder}/*cuda.cuh")
    if(NOT headers)
      continue()
    endif()
    list(TRANSFORM headers REPLACE "^(.+)$" "#include <\\1>\n")
    list(JOIN headers "" headers)
    set(source "${CMAKE_CURRENT_BINARY_DIR}/precompiled/${op}.cu")
    file(CONFIGURE OUTPUT "${source}" CONTENT "// Made by CMake.
${headers}#include <blackmamba/ops/cuda_operations.cuh>

namespace blackmamba {
BLACKMAMBA_CUDA_${op}(BLACKMAMBA_INSTANTIATE_STORAGE, BLACKMAMBA_INSTANTIATE_ACCUMULATOR, BLACKMAMBA_INSTANTIATE_PLAIN,
                      BLACKMAMBA_INSTANTIATE_CONVERSION)
}
")
    list(APPEND sources "${source}")
  endforeach()
  add_library(blackmamba_precompiled STATIC EXCLUDE_FROM_ALL ${sources})
  add_library(blackmamba::precompiled ALIAS blackmamba_precompiled)
  target_link_libraries(blackmamba_precompiled PUBLIC blackmamba::blackmamba CUDA::cudart_static CUDA::cublasLt)
  target_compile_definitions(blackmamba_precompiled INTERFACE BLACKMAMBA_PRECOMPILED)
  set_target_properties(blackmamba_precompiled PROPERTIES POSITION_INDEPENDENT_CODE ON)
endfunction()
