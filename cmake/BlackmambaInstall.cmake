# cmake --install: the headers, and what find_package(blackmamba) reads.

include(CMakePackageConfigHelpers)

option(BLACKMAMBA_INSTALL "Install the headers with the rest" ${PROJECT_IS_TOP_LEVEL})
if(BLACKMAMBA_INSTALL)
  set(package_folder "${CMAKE_INSTALL_DATADIR}/cmake/blackmamba")
  install(DIRECTORY include/blackmamba DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
  install(TARGETS blackmamba EXPORT blackmambaTargets)
  install(EXPORT blackmambaTargets NAMESPACE blackmamba:: DESTINATION "${package_folder}")
  configure_package_config_file(cmake/blackmambaConfig.cmake.in "${PROJECT_BINARY_DIR}/blackmambaConfig.cmake"
                                INSTALL_DESTINATION "${package_folder}" NO_SET_AND_CHECK_MACRO)
  write_basic_package_version_file("${PROJECT_BINARY_DIR}/blackmambaConfigVersion.cmake" COMPATIBILITY SameMinorVersion
                                   ARCH_INDEPENDENT)
  install(FILES "${PROJECT_BINARY_DIR}/blackmambaConfig.cmake" "${PROJECT_BINARY_DIR}/blackmambaConfigVersion.cmake"
          DESTINATION "${package_folder}")
  install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
endif()
