# cmake -DPROGRAMS=a;b;c -DOUT=folder -P run_benches.cmake
# Runs each program, prints what it prints and keeps it as OUT/NAME.txt. Layers and whole models come last. Fails, at the end, if one
# of them did.

file(MAKE_DIRECTORY "${OUT}")
set(last ${PROGRAMS})
list(FILTER last INCLUDE REGEX "[.](layers|model)$")
list(REMOVE_ITEM PROGRAMS ${last})
set(failed)
foreach(program IN LISTS PROGRAMS last)
  cmake_path(GET program FILENAME name)
  message("\n==== ${name}")
  execute_process(COMMAND "${program}" OUTPUT_FILE "${OUT}/${name}.txt" ERROR_FILE "${OUT}/${name}.errors.txt" RESULT_VARIABLE status)
  file(READ "${OUT}/${name}.txt" text)
  file(READ "${OUT}/${name}.errors.txt" errors)
  message("${text}${errors}")
  if(NOT status STREQUAL "0")
    list(APPEND failed "${name} (${status})")
  endif()
endforeach()
if(failed)
  message(FATAL_ERROR "failed: ${failed}")
endif()
