#include "frontend/start/gocryptfs.h"

#include "frontend/crypt/container.h"
#include "frontend/start/image_server.h"

namespace postern::start {

Outcome<UniqueFd> read_gocryptfs_configuration(const plan::ImageServer& image) {
  return crypt::read_configuration(
      {.image = image.image.get(), .place = extent_arguments(image, {})});
}

}  // namespace postern::start
