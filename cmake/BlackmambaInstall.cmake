# cmake --install: the headers, and what find_package(blackmamba) reads.

include(CMakePackageConfigHelpers)

set(package_folder "${CMAKE_INSTALL_DATADIR}/cmake/blackmamba")
set(include_folder "${CMAKE_INSTALL_INCLUDEDIR}")
configure_package_config_file(cmake/blackmambaConfig.cmake.in "${PROJECT_BINARY_DIR}/blackmambaConfig.cmake"
                              INSTALL_DESTINATION "${package_folder}" PATH_VARS include_folder)
# Before 1.0 a minor version may break what was there.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/blackmambaConfigVersion.cmake" COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
install(DIRECTORY include/blackmamba DESTINATION "${include_folder}")
install(FILES "${PROJECT_BINARY_DIR}/blackmambaConfig.cmake" "${PROJECT_BINARY_DIR}/blackmambaConfigVersion.cmake"
              cmake/BlackmambaTarget.cmake cmake/BlackmambaPrecompiled.cmake
        DESTINATION "${package_folder}")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
