// Files that a start puts into the container: accounts, name service, host name, and the libraries
// and programs of GPUs.
#pragma once

#include "frontend/plan/builder.h"

namespace postern::plan {

Outcome<> add_files(Builder& builder);
Outcome<> add_libraries(Builder& builder);

}  // namespace postern::plan
