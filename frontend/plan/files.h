// Files that a start puts into the container: accounts, name service, host name.
#pragma once

#include "frontend/plan/builder.h"

namespace postern::plan {

Outcome<> add_files(Builder& builder);

}  // namespace postern::plan
