# Flags of our own programs: tests, benchmarks, examples. None of them is on the library's interface.

add_library(blackmamba_program INTERFACE)
target_link_libraries(blackmamba_program INTERFACE blackmamba::blackmamba)

set(flags -Wall -Wextra)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # Of locals only: public names such as `linear` are globals, and gcc would report each parameter and scoped enumerator that has
  # the name of one, also of one that a program defines.
  list(APPEND flags -Wshadow=local)
else()
  list(APPEND flags -Wshadow)
endif()
if(BLACKMAMBA_WERROR)
  list(APPEND flags -Werror)
endif()
target_compile_options(blackmamba_program INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${flags}>")

# What decides how wide a pack is must be the same in every file of a program, so nvcc's host compiler is told as well.
if(BLACKMAMBA_NATIVE)
  target_compile_options(blackmamba_program INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:-march=native>"
                                                      "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-march=native>")
endif()

if(BLACKMAMBA_SANITIZE)
  list(JOIN BLACKMAMBA_SANITIZE "," sanitizers)
  set(flags -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(blackmamba_program INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${flags};-g1>")
  target_link_options(blackmamba_program INTERFACE ${flags})
endif()
