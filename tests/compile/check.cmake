# cmake -DCOMPILER=c++ -DINCLUDE=folders -DSOURCE=file.cpp -P check.cmake
#
# A file of this folder holds right code and, behind the preprocessor, the mistakes that the library must refuse:
#
#   #if MISTAKE == 1  // refused: sentence
#
# Without MISTAKE it must compile. With -DMISTAKE=1 it must not, and the compiler's output must hold the sentence; where compilers
# word it differently, " || " stands between the wordings. Syntax only: nothing is linked or run.

cmake_minimum_required(VERSION 3.25)
set(ENV{LC_ALL} C) # gcc quotes with plain quotes

# A fatal message is wrapped into a paragraph; a notice keeps its lines.
function(refuse text)
  message(NOTICE "${text}")
  message(FATAL_ERROR "compile test failed")
endfunction()

set(command "${COMPILER}" -std=c++20 -fsyntax-only)
foreach(folder IN LISTS INCLUDE)
  list(APPEND command -isystem "${folder}")
endforeach()

execute_process(COMMAND ${command} "${SOURCE}" RESULT_VARIABLE status ERROR_VARIABLE text)
if(NOT status EQUAL 0)
  refuse("${SOURCE} does not compile as it stands:\n${text}")
endif()

file(STRINGS "${SOURCE}" mistakes REGEX "MISTAKE == [0-9]+ .*// refused: ")
if(NOT mistakes)
  refuse("${SOURCE} names no mistake")
endif()
foreach(line IN LISTS mistakes)
  string(REGEX MATCH "MISTAKE == ([0-9]+) .*// refused: (.*)$" match "${line}")
  set(number ${CMAKE_MATCH_1})
  string(REPLACE " || " ";" sentences "${CMAKE_MATCH_2}")
  execute_process(COMMAND ${command} -DMISTAKE=${number} "${SOURCE}" RESULT_VARIABLE status ERROR_VARIABLE text)
  if(status EQUAL 0)
    refuse("${SOURCE}: mistake ${number} is accepted, and should be refused with: ${CMAKE_MATCH_2}")
  endif()
  set(found OFF)
  foreach(sentence IN LISTS sentences)
    string(FIND "${text}" "${sentence}" place)
    if(place GREATER_EQUAL 0)
      set(found ON)
    endif()
  endforeach()
  if(NOT found)
    refuse("${SOURCE}: mistake ${number} is refused, but not with: ${sentences}\nThe compiler says:\n${text}")
  endif()
  message(STATUS "mistake ${number} is refused with: ${sentences}")
endforeach()
