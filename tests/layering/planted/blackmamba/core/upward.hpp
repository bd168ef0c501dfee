#pragma once
#include <blackmamba/ops/scan/scan.hpp>
