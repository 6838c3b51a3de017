"""What an endpoint is built from: the typed arguments of the application, also in the YAML that Serve deploys."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from raymlops import __version__
from raymlops.config.rollout import RolloutConfig
from raymlops.config.serving import ServingConfig
from raymlops.serving.document import ModelRef

if TYPE_CHECKING:
    from raymlops.config.tree import Config


class EndpointArgs(BaseModel):
    """Model and policy, never versions or weights: those are the registry's and the rollout's."""

    model_config = ConfigDict(extra="forbid")

    name: str
    """Of the model in the registry, of the endpoint and of its Serve application."""
    task: str
    storage: str
    """Absolute path or URI that every node reaches."""
    tracking_uri: str | None = None
    """Of MLflow; an embedded database below `storage` when absent."""
    serving: ServingConfig = ServingConfig()
    rollout: RolloutConfig = RolloutConfig()

    @classmethod
    def of(cls, config: Config) -> EndpointArgs:
        """With the storage and the registry as this process finds them, so that other machines mean the same."""
        from raymlops.registry.backend import tracking
        from raymlops.store import Store

        store = Store.at(config.storage)
        return cls(
            name=config.name,
            task=config.task,
            storage=store.uri,
            tracking_uri=tracking(config.tracking.uri, store).uri,
            serving=config.serving,
            rollout=config.rollout,
        )

    def stage_champion(self) -> ModelRef:
        """The registered champion, copied to where replicas find it. Raises RaymlopsError when there is none, or the
        registry or the store cannot be reached."""
        from raymlops.registry.backend import tracking
        from raymlops.serving.packages import stage
        from raymlops.store import Store

        store = Store.at(self.storage)
        return stage(tracking(self.tracking_uri, store), store, f"{self.name}@champion")

    def plain(self) -> dict[str, Any]:
        """As JSON and YAML have it."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def build(self) -> str:
        """Names this code and configuration: replicas of different builds are not compared with each other."""
        text = json.dumps([__version__, self.plain()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def controller_config(self, champion: ModelRef) -> str:
        """What the rollout controller is started with."""
        return json.dumps({**self.plain(), "champion": asdict(champion)})
