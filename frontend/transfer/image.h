// From a URI to an image file on this machine: fetched or converted, in the cache where there is
// one.
#pragma once

#include <string>

#include "frontend/imagebuild/fetch.h"
#include "frontend/imagebuild/options.h"

namespace postern::transfer {

// Error: no transport, or one that is not known; the texts are Apptainer's.
Outcome<imagebuild::SourceSpec> spec_of(const std::string& uri);

// `options`: where to and how if something is to be converted; `uncached` is the file that a
// conversion makes where the cache is off.
Outcome<imagebuild::Fetched> provide_image(const std::string& uri,
                                           imagebuild::BuildOptions options,
                                           const std::string& uncached);

}  // namespace postern::transfer
