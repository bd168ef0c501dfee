# What whoever builds on the library gets, said once: by the source tree and by the installed package.

# blackmamba_describe(TARGET INCLUDE...): makes the interface target the library. Expects Eigen3 to have been found; OpenMP and
# nlohmann_json are used where they have been.
function(blackmamba_describe target)
  target_compile_features(${target} INTERFACE cxx_std_20)
  if(CMAKE_CUDA20_COMPILE_FEATURES)
    target_compile_features(${target} INTERFACE cuda_std_20)
  else() # CMake 3.25 does not know that nvcc has C++20
    target_compile_options(${target} INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>")
  endif()
  target_include_directories(${target} INTERFACE ${ARGN})
  target_link_libraries(${target} INTERFACE Eigen3::Eigen)
  if(TARGET OpenMP::OpenMP_CXX)
    target_link_libraries(${target} INTERFACE OpenMP::OpenMP_CXX)
    # The same inline function must mean the same in a .cu as in a .cpp, so nvcc's host compiler gets OpenMP too.
    target_compile_options(${target} INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${OpenMP_CXX_FLAGS}>")
  endif()
  if(TARGET nlohmann_json::nlohmann_json)
    target_link_libraries(${target} INTERFACE nlohmann_json::nlohmann_json)
  endif()
endfunction()
