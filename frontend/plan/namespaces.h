// Which namespaces the payload gets, and which capabilities it has in them.
#pragma once

#include "frontend/plan/builder.h"

namespace postern::plan {

Outcome<> add_namespaces(Builder& builder);
void add_capabilities(Builder& builder);

}  // namespace postern::plan
