# cmake [-DEXPECT=regex] [-DFAILS=ON] -P run_and_expect.cmake -- PROGRAM ARGUMENT...
# Runs the program, passes on what it prints, and fails unless both its exit status and its text are as expected. ctest's own
# PASS_REGULAR_EXPRESSION would take the text for all, and never look at the exit status.

set(command)
set(after_dashes OFF)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  if(after_dashes)
    # An argument with a semicolon stays one argument.
    string(REPLACE ";" "\\;" argument "${CMAKE_ARGV${i}}")
    list(APPEND command "${argument}")
  elseif(CMAKE_ARGV${i} STREQUAL "--")
    set(after_dashes ON)
  endif()
endforeach()

execute_process(COMMAND ${command} RESULT_VARIABLE status OUTPUT_VARIABLE text ERROR_VARIABLE text ECHO_OUTPUT_VARIABLE
                ECHO_ERROR_VARIABLE)
if(FAILS)
  # A crash gives no number, and is not the refusal that was asked for.
  if(NOT status MATCHES "^[0-9]+$" OR status EQUAL 0)
    message(FATAL_ERROR "exit status ${status}, not one from 1 up")
  endif()
elseif(NOT status STREQUAL "0")
  message(FATAL_ERROR "exit status ${status}, not 0")
endif()
if(EXPECT AND NOT text MATCHES "${EXPECT}")
  message(FATAL_ERROR "the output does not match \"${EXPECT}\"")
endif()
