# What whoever builds on the library gets, said once: by the source tree and by the installed package.

# blackmamba_describe(TARGET INCLUDE...): makes the interface target the library. Expects Eigen3 and Threads to have been found;
# nlohmann_json is used where it has been. In a project with CUDA enabled by now, programs that need cuBLASLt are linked with it.
function(blackmamba_describe target)
  target_compile_features(${target} INTERFACE cxx_std_20)
  if(CMAKE_CUDA20_COMPILE_FEATURES)
    target_compile_features(${target} INTERFACE cuda_std_20)
  else() # CMake 3.25 does not know that nvcc has C++20
    target_compile_options(${target} INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>")
  endif()
  target_include_directories(${target} INTERFACE ${ARGN})
  target_link_libraries(${target} INTERFACE Eigen3::Eigen Threads::Threads)
  if(TARGET nlohmann_json::nlohmann_json)
    target_link_libraries(${target} INTERFACE nlohmann_json::nlohmann_json)
  endif()
  get_property(languages GLOBAL PROPERTY ENABLED_LANGUAGES)
  if("CUDA" IN_LIST languages)
    find_package(CUDAToolkit QUIET)
    # By its path: the toolkit's targets are not seen above this folder, where the library may be linked as well.
    if(CUDA_cublasLt_LIBRARY)
      # Only where something calls it, for no property tells: with one .cpp file beside the .cu files CMake takes a program for C++.
      cmake_path(GET CUDA_cublasLt_LIBRARY PARENT_PATH folder)
      target_link_libraries(${target}
                            INTERFACE "-Wl,--push-state,--as-needed,${CUDA_cublasLt_LIBRARY},--pop-state,-rpath,${folder}")
    endif()
  endif()
endfunction()
