"""Which dataset a question may be about."""

from uuid import UUID

from apps.accounts.tenancy import Principal
from apps.optimization import services


def admit(principal: Principal, dataset: UUID | None) -> None:
    """Refuse a question about a dataset that the principal's organization does not have.

    Raises:
        NotFound: it has no such dataset.
    """
    if dataset is not None:
        services.get_dataset(principal=principal, dataset_id=dataset)
