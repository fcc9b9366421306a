"""What requests to the server may cost: flags of adios-serve."""

import dataclasses

from adios_tf.cli import setting


@dataclasses.dataclass(frozen=True)
class Limits:
    """What requests may cost."""

    max_body_mb: float = setting(16.0, "largest request", "limits", above=0)
    read_timeout: float = setting(10.0, "seconds for headers, then for the body", "limits", above=0)
    answer_timeout: float = setting(30.0, "seconds for the model to answer", "limits", above=0)
    max_images: int = setting(128, "images in one request", "limits", least=1)
    max_megapixels: float = setting(50.0, "of a request's image files together", "limits", above=0)
    batch_size: int = setting(32, "images of concurrent requests taken together", "limits", least=1)
    max_waiting: int = setting(
        1024, "images that wait for a signature, then 429", "limits", least=1
    )
    max_connections: int = setting(256, "open connections, then 503", "limits", least=1)
    stop_timeout: float = setting(30.0, "seconds from SIGTERM to the end", "limits", above=0)
